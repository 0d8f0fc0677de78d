"""Results as a table for people, Markdown for documents and JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forebay.conformance.check import Level, Result, Verdict

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.OBSERVED: "cyan",
    Verdict.SKIPPED: "dim",
    Verdict.NOT_ANNOUNCED: "dim",
}


def level_of(result: Result) -> str:
    """How binding a result is, for a table: MUST, SHOULD or observe; with a star where it is of an extension."""
    return f"{result.level}{'*' if result.extension else ''}"


def table(results: Iterable[Result]) -> Table:
    """One line a check. What failed shows what was sent, expected and came."""
    made = Table(show_edge=False, pad_edge=False)
    made.add_column("check", no_wrap=True)
    made.add_column("level", no_wrap=True)
    made.add_column("verdict", no_wrap=True)
    made.add_column("what", overflow="fold")
    for one in results:
        lines = [escape(one.title)]
        if one.verdict is Verdict.FAIL:
            lines += [f"[dim]spec[/]      “{escape(one.quote)}” ({escape(one.source.title)})"]
            lines += [f"[dim]sent[/]      {escape(one.sent)}", f"[dim]expected[/]  {escape(one.expected)}"]
            lines += [f"[dim]came[/]      {escape(one.came)}"]
        elif one.came and one.verdict in (Verdict.OBSERVED, Verdict.SKIPPED):
            lines[0] += f"[dim]: {escape(one.came)}[/]"
        style = _STYLES[one.verdict]
        made.add_row(one.id, level_of(one), f"[{style}]{one.verdict}[/]", "\n".join(lines))
    return made


def summary(results: Sequence[Result]) -> str:
    """One line: how many of what counts passed, and the rest."""
    count = Counter(one.verdict for one in results)
    judged = count[Verdict.PASS] + count[Verdict.FAIL]
    grave = sum(one.grave for one in results)
    parts = [f"{count[Verdict.PASS]} of {judged} checks passed"]
    if count[Verdict.FAIL]:
        parts.append(f"{grave} MUST and {count[Verdict.FAIL] - grave} SHOULD failed")
    for verdict in (Verdict.OBSERVED, Verdict.SKIPPED, Verdict.NOT_ANNOUNCED):
        if count[verdict]:
            parts.append(f"{count[verdict]} {verdict}")
    return "; ".join(parts)


def print_report(console: Console, results: Sequence[Result]) -> None:
    """Table and summary. A star at a level: of an extension that the server announces."""
    console.print(table(results))
    console.print(f"\n{summary(results)}  [dim](* of an extension)[/]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def markdown(results: Iterable[Result]) -> str:
    """A Markdown table: check, level, verdict, what it asks, what came where it is worth telling."""
    lines = ["| check | level | verdict | what | came |", "|---|---|---|---|---|"]
    for one in results:
        told = one.came if one.verdict is not Verdict.PASS else ""
        if one.verdict is Verdict.FAIL:
            told = f"expected {one.expected}; {one.came}"
        cells = (f"`{one.id}`", level_of(one), str(one.verdict), one.title, told)
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def as_json(url: str, model: str, results: Sequence[Result]) -> dict[str, Any]:
    """Everything, for programs. `passed`: no MUST fails."""
    count = Counter(str(one.verdict) for one in results)
    return {
        "url": url,
        "model": model,
        "passed": not any(one.grave for one in results),
        "counts": dict(count),
        "results": [
            {
                "id": one.id,
                "area": one.area,
                "level": str(one.level),
                "extension": one.extension,
                "verdict": str(one.verdict),
                "title": one.title,
                "quote": one.quote,
                "source": one.source.title,
                "source_url": one.source.url,
                "sent": one.sent,
                "expected": one.expected,
                "came": one.came,
            }
            for one in results
        ],
    }


def failed(results: Iterable[Result]) -> bool:
    """Whether a MUST fails, of the protocol or of an announced extension."""
    return any(one.grave for one in results)


def judged(results: Iterable[Result], level: Level) -> tuple[int, int]:
    """(passed, judged) of one level."""
    verdicts = [one.verdict for one in results if one.level is level]
    return verdicts.count(Verdict.PASS), verdicts.count(Verdict.PASS) + verdicts.count(Verdict.FAIL)
