"""What the report says of `forebay optimize`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def optimize_lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    """By model: each search with its candidates, then what was served."""
    for model, figures in (found or {}).items():
        yield from ("", f"## `forebay optimize`, {model}", "")
        for goal, search in figures["searches"].items():
            yield from _search(goal, search)
        yield from _served(figures)


def _search(goal: str, search: Mapping[str, Any]) -> Iterator[str]:
    accuracy = search["original"]["accuracy"]
    right = "" if accuracy is None else f"; the original is right in {accuracy:.2%}"
    company = "required" if search["batch_invariance"] else "not required"
    yield (
        f"By {search['metric']}, drop {search['max_drop']:g} at most, batch invariance {company}: "
        f"{search['held_out']} held-out samples{right}; {search['seconds']:.0f} s; "
        f"chosen: {search['chosen'] or 'none'}."
    )
    yield from (
        "",
        "| candidate | speed-up | cosine | accuracy | alone or in a batch | verdict | |",
        "|---|--:|--:|--:|--:|---|---|",
    )
    for one in search["candidates"]:
        cells = (
            _number(one["speedup"], ".2f"),
            _number(one["cosine"], ".5f"),
            _number(one["accuracy"], ".2%"),
            _number(one["batch_error"], ".0e"),
        )
        yield f"| {one['name']} | {' | '.join(cells)} | {one['reason'] or 'passed'} | {one['note'] or one['detail']} |"
    yield ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _served(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"| served | recipe | {figures['unit']}, median (lowest to highest) | against the original | checked | wrong |",
        "|---|---|--:|--:|--:|--:|",
    )
    for name, rate in figures["rates"].items():
        turns = figures["turns"][name]
        checked, wrong = (sum(turn[key] for turn in turns) for key in ("checked", "wrong"))
        ratio = figures["ratios"].get(name)
        against = f"{ratio['median']:.2f}x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
        recipe = figures["searches"][name]["chosen"] if name in figures["searches"] else ""
        span = f"{rate['median']:,.0f} ({rate['lowest']:,.0f} to {rate['highest']:,.0f})"
        yield f"| {name} | {recipe} | {span} | {against} | {checked} | {wrong} |"
    if eager := figures.get("eager"):
        ratio = eager["ratio"]
        yield ""
        yield (
            f"Without a server, one thread: the ONNX export has {ratio['median']:.2f} ({ratio['lowest']:.2f} to "
            f"{ratio['highest']:.2f}) times the rows a second of eager torch, each at its best batch size."
        )
