"""How often a semantic cache answers wrongly: labelled pairs of questions, our guard and threshold, others' rules.

    python examples/minilm/build.py
    pip install fow-cache
    python benchmarks/workloads/semantic_pairs.py [--budget 5%] [--json FILE]

The pairs are those of the PyPI package `fow-cache` (600 pairs, CC BY 4.0, Mabon ap Gwyn; written by language models).
They are split once, seeded, 60 to 40, and pairs that share a question stay together. The threshold is calibrated on
the larger part and everything is reported on the other. No list of the guard was made from either part; its rules were
tried out on the calibration part only.

What others would answer is computed by the default rule in their own code, on the same vectors (MiniLM), since the
embedders that they load by default are only on Hugging Face:

- GPTCache 0.1.44: `similarity_threshold` 0.8, and `SearchDistanceEvaluation` over squared L2 distances of normalised
  vectors, 4 - d >= 0.8 * 4; that is a cosine of 0.6.
- RedisVL 0.28.0 `SemanticCache`: `distance_threshold` 0.1 of cosine distance; that is a cosine of 0.9.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from forebay.cache.semantic.calibrate import ScoredPair, TooFewPairsError, choose, curve
from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.prompt import prompt_of_chat, to_embed
from forebay.cli.calibrate import TextPair, embed_all, score
from forebay.cli.curves import parse_share
from forebay.core.binomial import upper_bound

ROOT = Path(__file__).resolve().parents[2]
EMBEDDER = f"{ROOT / 'examples' / 'minilm' / 'minilm.py'}:MiniLM"
SEED = 5
CALIBRATION_SHARE = 0.6
TIGHT_BUDGET = 0.01


class LabelledPair(NamedTuple):
    id: str
    category: str
    texts: TextPair


class Rule(NamedTuple):
    """Who answers, and from which cosine on; `guarded`: only what the guard lets pass."""

    name: str
    threshold: float
    guarded: bool


def load_pairs() -> list[LabelledPair]:
    """The pairs of the package. Raises `SystemExit` where it is not installed."""
    try:
        text = resources.files("fow_cache").joinpath("data/pairs.jsonl").read_text("utf-8")
    except ModuleNotFoundError:
        raise SystemExit("The pairs are not installed. Run: pip install fow-cache") from None
    rows = map(json.loads, text.splitlines())
    return [LabelledPair(r["id"], r["category"], TextPair(r["a"], r["b"], r["same_answer"])) for r in rows]


def split(pairs: Sequence[LabelledPair], seed: int = SEED) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Calibration and test part. Pairs that are joined by a common question are in the same part."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            text = parent[text]
        return text

    def key(text: str) -> str:
        return " ".join(text.casefold().split())

    for pair in pairs:
        parent[root(key(pair.texts.one))] = root(key(pair.texts.other))
    groups: dict[str, list[LabelledPair]] = {}
    for pair in pairs:
        groups.setdefault(root(key(pair.texts.one)), []).append(pair)
    ordered = sorted(groups.values(), key=lambda group: group[0].id)
    random.Random(seed).shuffle(ordered)
    calibration: list[LabelledPair] = []
    test: list[LabelledPair] = []
    for group in ordered:
        fits = len(calibration) + len(group) <= CALIBRATION_SHARE * len(pairs)
        (calibration if fits else test).extend(group)
    return calibration, test


def load_chats() -> list[LabelledPair]:
    """The conversations of the package, as prompts."""
    folder = resources.files("fow_cache").joinpath("data")
    files = (file for part in ("conv-parts", "conv-long") for file in folder.joinpath(part).iterdir())
    texts = (file.read_text("utf-8") for file in files if file.name.endswith(".jsonl"))
    chats = []
    for row in (json.loads(line) for text in texts for line in text.splitlines()):
        one, other = prompt_of_chat(row["a"]), prompt_of_chat(row["b"])
        if one is None or other is None or one.system != other.system:
            raise SystemExit(f"{row['id']} is not made of texts alone")
        chats.append(LabelledPair(row["id"], row["subtype"], TextPair(one.text, other.text, row["same_answer"])))
    return chats


def short(pair: LabelledPair, policy: SemanticPolicy) -> bool:
    """Whether the tier compares these texts at all."""
    return max(len(text.encode()) for text in pair.texts[:2]) <= policy.max_text_bytes


def measure_chats(threshold: float, guard: Guard) -> dict[str, Any]:
    """Hits among conversations, at the threshold found on questions."""
    chats = load_chats()
    embedded = {text: to_embed(text) for chat in chats for text in chat.texts[:2]}
    vectors, _ = asyncio.run(embed_all(EMBEDDER, list(dict.fromkeys(embedded.values()))))
    scored = score([chat.texts for chat in chats], {text: vectors[to] for text, to in embedded.items()}, guard)
    rule, policy = Rule("Forebay", threshold, True), SemanticPolicy()
    compared = [pair for chat, pair in zip(chats, scored, strict=True) if short(chat, policy)]
    return {"any length": rates(rule, scored), f"up to {policy.max_text_bytes} bytes": rates(rule, compared)}


def rates(rule: Rule, scored: Sequence[ScoredPair]) -> dict[str, Any]:
    """Hits of a rule among pairs with different answers and among those with one answer."""
    hits = [pair for pair in scored if pair.score >= rule.threshold and (pair.passed or not rule.guarded)]
    different, same = (sum(pair.same is which for pair in scored) for which in (False, True))
    false_hits = sum(not pair.same for pair in hits)
    true_hits = len(hits) - false_hits
    return {
        "rule": rule.name,
        "threshold": rule.threshold,
        "false_hits": false_hits,
        "different_pairs": different,
        "false_hit_rate": false_hits / different if different else None,
        "upper_bound": upper_bound(false_hits, different) if different else None,
        "true_hits": true_hits,
        "same_pairs": same,
        "true_hit_rate": true_hits / same if same else None,
    }


def refusal(scored: Sequence[ScoredPair], budget: float) -> str:
    """What `forebay cache calibrate` says to a budget that these pairs cannot prove."""
    try:
        choose(curve(scored), budget)
    except TooFewPairsError as error:
        return str(error)
    return ""


def measure(budget: float, seed: int) -> dict[str, Any]:
    """Everything that the table shows."""
    pairs = load_pairs()
    calibration, test = split(pairs, seed)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.texts[:2]))
    vectors, _ = asyncio.run(embed_all(EMBEDDER, texts))
    guard = Guard(load_lexicon())
    parts = {
        name: score([pair.texts for pair in part], vectors, guard)
        for name, part in (("calibration", calibration), ("test", test), ("all", pairs))
    }
    chosen = choose(curve(parts["calibration"]), budget)
    ours = Rule(f"Forebay, calibrated for {budget:.0%}", chosen.threshold, True)
    rules = [
        ours,
        Rule("Forebay, default threshold", 0.98, True),
        Rule("same threshold without the guard", chosen.threshold, False),
        Rule("RedisVL's rule", 0.9, False),
        Rule("GPTCache's rule", 0.6, False),
    ]
    categories = sorted({pair.category for pair in pairs})
    return {
        "seed": seed,
        "budget": budget,
        "calibration": rates(ours, parts["calibration"]),
        "test": [rates(rule, parts["test"]) for rule in rules],
        "test_by_category": {
            name: rates(ours, [s for pair, s in zip(test, parts["test"], strict=True) if pair.category == name])
            for name in categories
        },
        "chats": measure_chats(chosen.threshold, guard),
        "refused": {name: refusal(parts[name], TIGHT_BUDGET) for name in ("calibration", "all")},
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/semantic-cache.md."""
    lines = ["| rule | cosine from | false hits | true hits |", "|---|--:|--:|--:|"]
    lines += [
        f"| {row['rule']} | {row['threshold']:.3f} | {row['false_hits']} of {row['different_pairs']} "
        f"({row['false_hit_rate']:.1%}) | {row['true_hits']} of {row['same_pairs']} ({row['true_hit_rate']:.1%}) |"
        for row in result["test"]
    ]
    lines += ["", "| kind of pair | hits | right |", "|---|--:|---|"]
    for name, row in result["test_by_category"].items():
        pairs, hits = row["different_pairs"] + row["same_pairs"], row["false_hits"] + row["true_hits"]
        lines.append(f"| {name} | {hits} of {pairs} | {'a hit' if row['same_pairs'] else 'a miss'} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="False and true hits of semantic caches on labelled pairs.")
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    result = measure(parse_share("--budget", arguments.budget), arguments.seed)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    row = result["calibration"]
    print(f"calibration part: threshold {row['threshold']:.4f}, false hits {row['false_hits']} of "
          f"{row['different_pairs']} (at most {row['upper_bound']:.1%}), true hits {row['true_hits']} of "
          f"{row['same_pairs']}\n\n{markdown(result)}\n")  # fmt: skip
    for name, row in result["chats"].items():
        print(f"conversations, {name}: false hits {row['false_hits']} of {row['different_pairs']}, "
              f"true hits {row['true_hits']} of {row['same_pairs']}")  # fmt: skip
    for name, text in result["refused"].items():
        print(f"budget {TIGHT_BUDGET:.0%}, {name} pairs: {text or 'accepted'}")


if __name__ == "__main__":
    main()
