"""What the report says of a student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def student_lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    """A table of what was measured."""
    if not found:
        return
    yield from ("", "## A student of MiniLM with a head, and what is made of the two", "")
    yield from ("| | texts/s | against the teacher |", "|---|--:|--:|")
    for name, rate in found["rates"].items():
        ratio = found["ratios"].get(name)
        against = f"{ratio['median']:.2f}x ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""
        yield f"| {name} | {rate['median']:.0f} ({rate['lowest']:.0f} to {rate['highest']:.0f}) | {against} |"
    judged, cascade, overload = found["judged"], found["cascade"], found["overload"]
    yield ""
    if kept := accuracy_kept(judged):
        yield f"- the student keeps {kept:.1%} of the teacher's accuracy on messages that neither has learned from"
    share, least = cascade["answered"] / cascade["rows"], 1 - cascade["upper_bound"]
    yield (
        f"- the cascade's student answers {share:.0%} of {cascade['rows']} messages; at least {least:.2%} of all "
        "answers are the teacher's, with 95 % confidence"
    )
    ratio, offered, below = overload["ratio"], overload["offered_per_s"], overload["below_floor"]
    yield (
        f"- at {offered:.0f}/s, three times what the teacher can do, variants answer {ratio['median']:.2f}x "
        f"({ratio['lowest']:.2f} to {ratio['highest']:.2f}) as many in time; {below:.0f} below the floor"
    )


def accuracy_kept(report: Mapping[str, Any]) -> float | None:
    """The student's accuracy over the teacher's, by the report of `forebay distill`; None without labels."""
    kept: float | None = (report.get("quality") or {}).get("share_kept")
    return kept
