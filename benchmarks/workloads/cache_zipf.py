"""The answer cache under Zipf traffic: throughput against cache off, and hits against an ideal LRU of the same size.

MiniLM, 32 clients of our own in a closed loop. Texts are drawn by Zipf's law with s = 1, one seeded sequence, of which
the server with the cache is sent every draw from the first: a warm-up of two draws a text, then the timed turns. Both
servers are up all the time and asked in turns; the one without a cache is sent the same part of the sequence.

The memory of the cache is chosen so that far from all texts fit. Hits are counted by the clients, from `X-Cache`, and
by the server's metrics. The ideal LRU sees the very same sequence, one draw after the other, and only draws of timed
turns count. What "the same size" is can be told in two ways, and both are measured:

- as many answers as the server held;
- as many bytes as the server may use, with answers alone in them; the server remembers whole answers to bodies besides.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from random import Random
from statistics import mean

import numpy as np
import numpy.typing as npt
from benchmarks.bench_run import Bench, Contender, Json, ratios, spread
from benchmarks.job_servers import ask
from benchmarks.pools import SplitPool, check_against, protocol_json, protocol_values, text_rows, texts
from benchmarks.servers import Server
from benchmarks.turns import load_json
from benchmarks.workloads import minilm
from benchmarks.zipf import LruRun, lru, zipf_draws, zipf_shares

from forebay.bench.connection import Answer
from forebay.bench.generator import Check, run_closed, run_event_loop
from forebay.bench.recording import LoadResult
from forebay.cache.entry import OVERHEAD_BYTES
from forebay.cache.key import KeyMaker
from forebay.core.request import Request
from forebay.core.tensors import pack_bytes
from forebay.engine.flight import nobody
from forebay.models.signature import Signature, TensorSpec

FULL_KEYS = 100_000
FULL_MEMORY_BYTES = 64 << 20
"""For that many texts: some 28,000 answers alone. A plan with fewer texts has as much less."""
WARM_DRAWS_A_KEY = 2
WARM_S = 3.0
"""Before each turn, not counted."""
MOST_RATE = 5000
"""So many draws a second are prepared. Our own clients cannot send as many."""
CHECK_SHARE = 0.01
OFF, ON = "off", "exact"
OUTCOMES = ("exact", "coalesced", "miss")
DIMENSION = 384

_METRIC = re.compile(r'^forebay_cache_(\w+?)(?:\{.*?outcome="(\w+)".*?\}|\{.*?\})? (\S+)$', re.MULTILINE)


def run(bench: Bench) -> Json:
    """Answers a second with and without the cache, in turns; hits of the timed turns against those of ideal LRUs."""
    keys = bench.plan.zipf_keys
    memory_bytes = FULL_MEMORY_BYTES * keys // FULL_KEYS
    values = texts(keys)
    traffic = Traffic(bench, values)
    settings = ("--set", "minilm.cache=exact", "--set", "minilm.deterministic=true")
    flags = {OFF: (), ON: (*settings, "--cache-memory-bytes", str(memory_bytes))}
    rows = text_rows(values)
    served: dict[str, tuple[Server, SplitPool]] = {}
    with ExitStack() as servers:
        for name, more in flags.items():
            contender = Contender(
                name,
                bench.forebay(minilm.OURS_MODEL, *more),
                lambda endpoint: protocol_json(endpoint, "minilm", "text", "BYTES", rows),
                lambda place, answer: None,  # answers to be checked are drawn by chance, see `Watch`
            )
            served[name] = servers.enter_context(bench.serve(contender))
        warm_up = traffic.warm_up(*served[ON])
        taken = bench.take_turns(
            "cache_zipf",
            [OFF, ON],
            lambda name: traffic.turn(*served[name], cached=name == ON),
            unit="texts/s",
            rounds=bench.plan.minilm_rounds,
        )
    return {
        "keys": keys,
        "full_keys": FULL_KEYS,
        "memory_bytes": memory_bytes,
        "warm_up": warm_up,
        "words": traffic.words(),
        "rates": {name: spread([turn["rate"] for turn in turns]) for name, turns in taken.items()},
        "ratio": ratios({"Forebay": taken[ON], OFF: taken[OFF]})[OFF],
        "turns": taken,
        "hits": traffic.hits(taken[ON], memory_bytes),
    }


class Watch:
    """What clients see of the answers of one run: outcomes of the cache, and a sample to be checked after it."""

    def __init__(self, ranks: Sequence[int], seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sample: list[tuple[int, Answer]] = []
        self._ranks = ranks
        self._random = Random(seed)

    def __call__(self, place: int, answer: Answer) -> bool | None:
        """For the generator, which asks it of every good answer: a `Check` that leaves its verdict for later."""
        self.outcomes[answer.headers.get(b"x-cache", b"none").decode("latin-1")] += 1
        if self._random.random() < CHECK_SHARE:
            self.sample.append((self._ranks[place], answer))
        return None


class Drawn:
    """The requests of one run, in the order in which they were drawn."""

    def __init__(self, pool: SplitPool, ranks: Sequence[int]) -> None:
        self._pool = pool
        self._ranks = ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, place: int) -> bytes:
        return self._pool[self._ranks[place]]


class Traffic:
    """The sequence of draws, and how much of it the server with the cache has been sent."""

    def __init__(self, bench: Bench, values: list[str]) -> None:
        plan = bench.plan
        self._tell = bench.tell
        self._values = values
        self._seconds = plan.minilm_s
        self._warm_draws = WARM_DRAWS_A_KEY * len(values)
        seconds = (plan.minilm_rounds + 1) * (WARM_S + plan.minilm_s)
        self.draws = zipf_draws(len(values), self._warm_draws + int(seconds * MOST_RATE), seed=0)
        self.sent = 0
        self.counted: list[slice] = []
        """Draws of the timed turns."""

    def warm_up(self, server: Server, pool: SplitPool) -> Json:
        """Send the first part of the sequence."""
        start = time.monotonic()
        while self.sent < self._warm_draws:
            self._send(server, pool, self._seconds)
            self._tell(f"cache_zipf, warm-up: {self.sent:,} of {self._warm_draws:,} draws")
        return {
            "draws": self.sent,
            "texts": len(set(self.draws[: self.sent])),
            "seconds": time.monotonic() - start,
            "server": cache_metrics(server),
        }

    def turn(self, server: Server, pool: SplitPool, *, cached: bool) -> Json:
        """A little warm-up, then a timed run. A server without a cache gets what the next one with a cache will get."""
        start = self.sent
        self._send(server, pool, WARM_S)
        before, timed = cache_metrics(server), self.sent
        watch = Watch(self.draws[timed:], seed=timed)
        result = self._send(server, pool, self._seconds, watch)
        after = cache_metrics(server)
        if cached:
            self.counted.append(slice(timed, self.sent))
        else:
            self.sent = start
        if result.void:
            self._tell(f"[red]void[/]: {result.void}")
        return {
            **load_json(result),
            "rate": result.throughput_per_s,
            **self._checked(watch.sample),
            "clients": dict(watch.outcomes),
            "server": {name: after[name] - before.get(name, 0.0) for name in after},
            "kept": {name: after.get(name, 0.0) for name in ("memory_entries", "memory_bytes")},
        }

    def _send(self, server: Server, pool: SplitPool, seconds: float, watch: Check | None = None) -> LoadResult:
        drawn = Drawn(pool, self.draws[self.sent :])
        recording = run_event_loop(run_closed(server.address, drawn, minilm.CLIENTS, seconds, check=watch, sample=1.0))
        result = recording.summarise(seconds)
        if result.sent > len(drawn):
            raise RuntimeError(f"{result.sent} requests were sent and only {len(drawn)} drawn: raise MOST_RATE")
        self.sent += result.sent
        return result

    def _checked(self, sample: Sequence[tuple[int, Answer]]) -> Json:
        """Compare answers with what onnxruntime gives for their texts."""
        ranks = sorted({rank for rank, _ in sample})
        expected = dict(zip(ranks, minilm.embeddings([self._values[rank] for rank in ranks]), strict=True))
        check = check_against(expected, protocol_values)
        return {"checked": len(sample), "wrong": sum(check(rank, answer) is not True for rank, answer in sample)}

    def words(self) -> Json:
        """Mean words of all texts, and of the requests by the law: popular texts should be neither long nor short."""
        counts = np.array([len(value.split()) for value in self._values])
        return {"texts": float(counts.mean()), "requests": float(counts @ zipf_shares(len(counts)))}

    def hits(self, turns: Sequence[Json], memory_bytes: int) -> Json:
        """What came of the timed draws, by the clients and by the server, against ideal LRUs."""
        draws = self.draws[: self.sent]
        counted = np.zeros(len(draws), dtype=np.bool_)
        for part in self.counted:
            counted[part] = True
        entries = mean(turn["kept"]["memory_entries"] for turn in turns)
        alone = kept_bytes(self._values)
        ideals = {
            "answers": lru(draws, [1] * len(alone), round(entries)),
            "bytes": lru(draws, alone, memory_bytes),
        }
        return compare(turns, {name: lru_figures(ideal, counted) for name, ideal in ideals.items()})


def lru_figures(ideal: LruRun, counted: npt.NDArray[np.bool_]) -> Json:
    """Of the draws that count: the share of hits, and how many keys were kept on average."""
    return {"hit_rate": float(ideal.hits[counted].mean()), "entries": float(ideal.kept[counted].mean())}


def compare(turns: Sequence[Json], ideals: Mapping[str, Json]) -> Json:
    """Outcomes of all turns together, as shares, and these over the hit rate of each ideal.

    An answer that waited for an equal request in flight is a hit too: the model did not run for it, and an LRU that is
    sent one draw after the other has it by then. `exact` leaves these out.
    """
    clients, server = (
        {outcome: int(sum(turn[side].get(name, 0) for turn in turns)) for outcome, name in names}
        for side, names in (
            ("clients", [(outcome, outcome) for outcome in OUTCOMES]),
            ("server", [(outcome, f"answers_total {outcome}") for outcome in OUTCOMES]),
        )
    )
    answered = sum(clients.values())
    exact, hit = clients["exact"] / answered, (clients["exact"] + clients["coalesced"]) / answered
    return {
        "clients": clients,
        "server": server,
        "other_answers": sum(sum(turn["clients"].values()) for turn in turns) - answered,
        "hit_rate": hit,
        "exact_rate": exact,
        "entries": mean(turn["kept"]["memory_entries"] for turn in turns),
        "bytes": mean(turn["kept"]["memory_bytes"] for turn in turns),
        "evictions": int(sum(turn["server"]["evictions_total"] for turn in turns)),
        "refreshes": int(sum(turn["server"].get("refreshes_total", 0) for turn in turns)),
        "ideals": {
            name: {**ideal, "of_ideal": hit / ideal["hit_rate"], "exact_of_ideal": exact / ideal["hit_rate"]}
            for name, ideal in ideals.items()
        },
    }


def cache_metrics(server: Server) -> dict[str, float]:
    """The server's own counts of its cache: without `forebay_cache_`; answers with their outcome behind."""
    found = ask(server.endpoint, "/metrics").decode()
    return {f"{name} {outcome}".rstrip(): float(value) for name, outcome, value in _METRIC.findall(found)}


def kept_bytes(values: Sequence[str]) -> list[int]:
    """What the server's cache takes for the answer to each text, as it weighs it itself, before it is served again."""
    signature = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("embedding", "FP32", (DIMENSION,)),))
    maker = KeyMaker("minilm", "1", "", signature)
    request = Request([], ((1,),), rows=1, nbytes=0, deadline=0.0, arrived=0.0, on_done=nobody)
    sizes: list[int] = []
    for value in values:
        request.inputs = [pack_bytes([value])]
        sizes.append(OVERHEAD_BYTES + len(maker.of(request, "")) + 4 * DIMENSION)
    return sizes
