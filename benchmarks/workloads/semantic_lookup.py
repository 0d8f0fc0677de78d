"""How long a semantic lookup takes, embedding excluded: 10,000 texts in one partition, hits and misses.

    python benchmarks/workloads/semantic_lookup.py [--redis URL] [--entries N]

The vectors are drawn by chance (384 numbers, as MiniLM's); a lookup that hits is for a vector near a kept one, with the
guard reading both texts. The numpy index is always measured, usearch where it is installed, vector sets with --redis.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from time import perf_counter

import numpy as np

from forebay.brokers.redis_link import RedisLink
from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.index import SemanticIndex
from forebay.cache.semantic.lexicon import Lexicon, load_lexicon
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.redis_index import RedisIndex
from forebay.cache.semantic.tier import SemanticTier
from forebay.cache.semantic.usearch_vectors import UsearchVectors
from forebay.core.tensors import Array

DIMENSION = 384
LOOKUPS = 2000
WHERE = Partition(
    model="bench", artefact="1", parameters=b"", system_prompt="", tenant="", embedder="random", locale="en"
)


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@asynccontextmanager
async def opened(kind: str, entries: int, url: str | None) -> AsyncIterator[SemanticIndex]:
    if kind == "redis":
        assert url is not None
        link = RedisLink(url)
        prefix = f"bench-{secrets.token_hex(4)}"
        index = RedisIndex(link, prefix=prefix, max_entries=entries, max_bytes=entries << 14, ttl_s=600.0)
        await index.check()
        yield index
        await index.drop(WHERE.key())
        await link.close()
    else:
        large = UsearchVectors if kind == "usearch" else None
        yield LocalIndex(max_entries=entries, large=large, large_from=1)


async def measure(kind: str, entries: int, url: str | None, lexicon: Lexicon) -> str:
    """Median and 99th percentile of lookups that hit, and of those that find nothing near."""
    generator = np.random.default_rng(0)
    kept = unit(generator.standard_normal((entries, DIMENSION), dtype=np.float32))
    strangers = unit(generator.standard_normal((LOOKUPS, DIMENSION), dtype=np.float32))
    asked = generator.integers(0, entries, LOOKUPS)
    noise = 0.05 / np.sqrt(DIMENSION) * generator.standard_normal((LOOKUPS, DIMENSION), dtype=np.float32)
    neighbours = unit(kept[asked] + noise)
    async with opened(kind, entries, url) as index:
        tier = SemanticTier(index, Guard(lexicon), SemanticPolicy())
        for number, vector in enumerate(kept):
            await tier.store(WHERE, f"e{number}", f"How do I repair the bicycle with number {number}?", vector)
        figures = []
        for vectors, text in ((neighbours, "Hello, how can I mend the bicycle with number {}?"), (strangers, "{}")):
            times = []
            for number, vector in zip(asked.tolist(), vectors, strict=True):
                begun = perf_counter()
                hit = await tier.lookup(WHERE, text.format(number), vector)
                times.append(perf_counter() - begun)
                if hit is not None:
                    assert hit.entry_id == f"e{number}"
            figures += [f"{np.quantile(times, share) * 1e3:.3f}" for share in (0.5, 0.99)]
        share = tier.counts["semantic"] / LOOKUPS
    return f"| {kind} | {' | '.join(figures)} | {share:.1%} |"


async def run(entries: int, url: str | None) -> None:
    lexicon = load_lexicon()
    kinds = ["numpy", *(["usearch"] if find_spec("usearch") else []), *(["redis"] if url else [])]
    print("| index | hit p50 ms | hit p99 ms | miss p50 ms | miss p99 ms | found |\n|---|--:|--:|--:|--:|--:|")
    for kind in kinds:
        print(await measure(kind, entries, url, lexicon))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time of a semantic lookup, embedding excluded.")
    parser.add_argument("--redis", default=None, help="URL of a Redis with vector sets")
    parser.add_argument("--entries", type=int, default=10_000)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.entries, arguments.redis))


if __name__ == "__main__":
    main()
