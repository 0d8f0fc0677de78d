"""The outcome of a search for people and programs: a table, the evidence, a document, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from forebay.core.errors import SetupError
from forebay.tune.contender import Outcome, Result

MOST_LISTED = 5


class Facts(msgspec.Struct, frozen=True):
    """What was measured, where and with what."""

    model: str
    date: str
    cpu: str
    cores: int
    version: str
    """Of Forebay."""
    inputs: str
    with_deadline: bool


def ranked(outcome: Outcome) -> list[Result]:
    """The chosen one, then those that were measured, the best first, then the others in their own order."""
    return sorted(outcome.results, key=lambda one: (one.configuration != outcome.chosen, -one.rate))


def table(outcome: Outcome) -> Table:
    """All configurations, the chosen one first and bold; those that were left out for one reason in one line."""
    found = Table(box=None, pad_edge=False, title=str(outcome.slo), title_justify="left")
    artefacts = len({one.configuration.artefact for one in outcome.results}) > 1
    if artefacts:
        found.add_column("form", no_wrap=True)
    found.add_column("inst. x threads", no_wrap=True)
    for title in ("cap", "rate/s", "in time/s"):
        found.add_column(title, justify="right", no_wrap=True)
    found.add_column("", overflow="fold")
    left_out: dict[tuple[str, str, str], list[str]] = {}
    for one in ranked(outcome):
        configuration, chosen = one.configuration, one.configuration == outcome.chosen
        if not one.probes:
            same = (configuration.artefact, configuration.size, one.reason)
            left_out.setdefault(same, []).append(str(configuration.max_batch_rows))
            continue
        figures = (f"{one.rate:,.1f}", f"{one.goodput_per_s:,.1f}") if one.rate else ("-", "-")
        row = (configuration.size, str(configuration.max_batch_rows), *figures, "chosen" if chosen else one.reason)
        found.add_row(*((configuration.artefact, *row) if artefacts else row), style="bold" if chosen else None)
    for (artefact, size, reason), caps in left_out.items():
        row = (size, ", ".join(caps), "-", "-", reason)
        found.add_row(*((artefact, *row) if artefacts else row))
    return found


def evidence(outcome: Outcome, facts: Facts, document: str) -> list[str]:
    """Lines for a settings file: what was chosen and why. `document`: the name of the file with all figures."""
    chosen = outcome.chosen
    form = f"{chosen.artefact} " if len({one.configuration.artefact for one in outcome.results}) > 1 else ""
    lines = [
        f"{facts.date}, {facts.cpu}, {facts.cores} cores, forebay {facts.version}, {facts.inputs}",
        f"{outcome.slo}: {outcome.goodput_per_s:,.1f} answers/s in time at {outcome.rate:,.1f}/s (Poisson), "
        f"{form}{chosen.size} cap {chosen.max_batch_rows}",
    ]
    others = [one for one in ranked(outcome) if one.configuration != chosen and one.rate]
    if others:
        lines.append(
            "others: "
            + ", ".join(f"{_name(one, chosen.artefact)} {one.goodput_per_s:,.1f}" for one in others[:MOST_LISTED])
        )
    if outcome.unconfirmed:
        lines.append(f"unconfirmed: {outcome.unconfirmed}")
    if outcome.generator_limited:
        lines.append("the load generator was the limit: it may do more")
    return [*lines, f"all figures: {document}"]


def _name(one: Result, usual: str) -> str:
    configuration = one.configuration
    artefact = "" if configuration.artefact == usual else f"{configuration.artefact} "
    return f"{artefact}{configuration.size} cap {configuration.max_batch_rows}"


def document(outcome: Outcome, facts: Facts) -> bytes:
    """Everything as JSON."""
    whole: dict[str, Any] = {"format": 1, **msgspec.to_builtins(facts), **msgspec.to_builtins(outcome)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def plot(path: Path, outcome: Outcome) -> None:
    """Goodput by configuration, and latency against rate, as a picture. Raises `SetupError`."""
    figure_type = figure_class()
    measured = [one for one in ranked(outcome) if one.probes]
    several = len({one.configuration.artefact for one in outcome.results}) > 1
    figure = figure_type(figsize=(11, 1.6 + 0.4 * max(len(measured), 5)), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, outcome, measured[::-1], several=several)
    for one in measured:
        points = sorted((p.rate, p.quantile_ms) for p in one.probes if p.quantile_ms is not None)
        if points:
            chosen = one.configuration == outcome.chosen
            right.plot(*zip(*points, strict=True), "o-", label=_label(one, several=several), lw=2.5 if chosen else 1)
    right.axhline(outcome.slo.bound_ms, color="tab:red", linestyle="--", label=str(outcome.slo))
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    right.set_xlabel("requests a second (Poisson)")
    right.set_ylabel(f"{outcome.slo.percentile} of the latency, ms")
    right.grid(visible=True, which="both", alpha=0.3)
    right.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write the plot {path}: {error}") from None


def _bars(axes: Any, outcome: Outcome, measured: Sequence[Result], *, several: bool) -> None:
    names = [_label(one, several=several) for one in measured]
    colours = ["tab:blue" if one.configuration == outcome.chosen else "tab:gray" for one in measured]
    # Of one that never kept the objective: what it answered in time all the same.
    values = [one.goodput_per_s or max(probe.goodput_per_s for probe in one.probes) for one in measured]
    bars = axes.barh(names, values, color=colours, height=0.6)
    axes.set_ylim(-0.6, max(len(names), 4) - 0.4)
    for bar, one in zip(bars, measured, strict=True):
        bar.set_alpha(1.0 if one.goodput_per_s else 0.4)
    axes.set_xlabel(f"answers a second within {outcome.slo.bound_ms:g} ms")
    limit = "; the generator was the limit" if outcome.generator_limited else ""
    axes.set_title(f"blue: chosen; pale: {outcome.slo} never held{limit}", fontsize=10)


def _label(one: Result, *, several: bool) -> str:
    configuration = one.configuration
    name = f"{configuration.size}, cap {configuration.max_batch_rows}"
    return f"{configuration.artefact} {name}" if several else name


def check_plot(path: Path) -> None:
    """Raises `SetupError` where a picture of this name could not be written."""
    known = sorted(figure_class()().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise SetupError(f"--plot {path}: {path.suffix or 'no suffix'} is no picture; write one of {', '.join(known)}")


def figure_class() -> Any:
    """matplotlib's `Figure`. Raises `SetupError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError("--plot needs matplotlib; install it with: pip install 'forebay[plot]'") from None
    return Figure
