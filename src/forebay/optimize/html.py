"""`report.html`: the report for people, one file without scripts, fonts or pictures from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from forebay.optimize.gate import described, drop_of
from forebay.optimize.heads import MEANINGS
from forebay.optimize.report import CandidateReport, Goals, OtherOutput, Report, megabytes
from forebay.optimize.svg import Point, bars, scatter

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse;width:100%;margin:.6rem 0}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top;font-size:.9rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#176b37}.no{color:#a3231f}
code{font-size:.85rem;overflow-wrap:anywhere}svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg .grid{stroke:#e4e4e4}svg .gate{stroke:#777;stroke-dasharray:5 4}svg .good{fill:#eaf5ec}
svg .passed{fill:#3d8b58}svg .rejected{fill:#c2504b}svg .chosen{fill:#176b37;stroke:#111;stroke-width:2}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.ok{color:#7fcf9a}
.no{color:#f08a85}svg{fill:#ddd}svg .grid{stroke:#333}svg .good{fill:#1d2e21}}
"""
"""Of the pages of reports."""

_FILES = 60
"""So many files that the source depends on are shown."""


def page(report: Report) -> str:
    """The whole page."""
    title = f"{report.source.name}: {report.chosen or 'nothing passed'}"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        f"<h1>{escape(report.source.name)}</h1>",
        _verdict(report),
        "<h2>Speed and accuracy</h2>",
        _plot(report),
        _candidates(report),
        "<h2>Rows a second by batch size</h2>",
        _speeds(report),
        *(_layers(one) for one in report.candidates if one.layers),
        *(_worst(one) for one in report.candidates if one.worst),
        "<h2>What was measured, with what</h2>",
        _facts(report),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _verdict(report: Report) -> str:
    chosen = next((one for one in report.candidates if one.name == report.chosen), None)
    if chosen is None or chosen.speed is None or chosen.agreement is None:
        text = "No candidate passed the gate." + (
            f" The export <b>{escape(report.chosen)}</b> is served." if report.chosen else ""
        )
        return f'<p class="no">{text}</p>'
    return (
        f'<p class="ok"><b>{escape(chosen.name)}</b> passed and is served: {chosen.speed.speedup:.2f} times as fast, '
        f"{escape(described(report.goals, chosen.agreement))}.</p>"
    )


def _plot(report: Report) -> str:
    points = []
    for one in [report.original, *report.candidates]:
        if one.speed is None or one.agreement is None or report.original.agreement is None:
            continue
        drop = drop_of(report.goals, report.original.agreement, one.agreement)
        if drop is None:
            continue  # the metric does not apply to its answers
        points.append(Point(one.name, one.speed.speedup, drop, one.reason is None, one.name == report.chosen))
    return scatter(points, report.goals.max_drop, report.goals.min_speedup, f"drop, by {report.goals.metric_name}")


def _candidates(report: Report) -> str:
    rows = []
    for one in [report.original, *report.candidates]:
        verdict = '<span class="ok">passed</span>'
        if one is report.original:
            verdict = "the original"
        elif one.reason is not None:
            verdict = f'<span class="no">{one.reason.replace("_", " ")}</span>: {escape(one.detail)}'
        invariance = one.invariance
        rows.append(
            [
                f"<b>{escape(one.name)}</b><br>{escape(one.meaning)}{f' ({escape(one.note)})' if one.note else ''}",
                f"{one.speed.speedup:.2f}×" if one.speed else "",
                _agreement(one, report.goals),
                f"{invariance.max_error:.1e}{'' if invariance.holds else ' ✗'}" if invariance else "",
                megabytes(one.size_bytes),
                f"{one.peak_memory_bytes / 1e6:.0f}" if one.peak_memory_bytes else "",
                verdict,
            ]
        )
    heads = ["candidate", "speed-up", "agreement", "alone or in a batch", "MB", "peak MB", "verdict"]
    return table(heads, rows, numbers={1, 3, 4, 5})


def _agreement(one: CandidateReport, goals: Goals) -> str:
    found = one.agreement
    if found is None:
        return ""
    parts = []
    if found.mean_cosine is not None and found.min_cosine is not None:
        parts.append(f"cosine {found.mean_cosine:.5f} (least {found.min_cosine:.5f})")
    if found.top1 is not None:
        parts.append(f"same class {found.top1:.2%}")
    if found.max_error is not None:
        parts.append(f"error {found.max_error:.2g}")
    if found.distance is not None:
        parts.append(f"{found.distance:.1%} away in all")
    if found.accuracy is not None:
        parts.append(f"accuracy {found.accuracy:.2%}")
    if found.own is not None:
        parts.append(escape(described(goals, found)))
    parts += [f"{escape(other.name)}: {_other(other)}" for other in one.others]
    return "<br>".join(parts) if found.finite else "NaN or infinity"


def _other(other: OtherOutput) -> str:
    if not other.agreement.finite:
        return "NaN or infinity"
    return described(Goals(metric=other.metric, max_drop=other.max_drop), other.agreement)


def _speeds(report: Report) -> str:
    measured = [one for one in [report.original, *report.candidates] if one.speed is not None]
    sizes = [batch.rows for batch in measured[0].speed.batches] if measured and measured[0].speed else []
    rows = []
    for one in measured:
        assert one.speed is not None
        by_size = {batch.rows: batch for batch in one.speed.batches}
        cells = [f"{by_size[size].rows_per_s:.0f} ({by_size[size].ratio:.2f}×)" for size in sizes]
        rows.append([escape(one.name), *cells])
    return table(["candidate", *(f"{size} rows" for size in sizes)], rows, numbers=set(range(1, len(sizes) + 1)))


def _layers(one: CandidateReport) -> str:
    shown = [(f"{layer.name} ({layer.kind})", layer.error, layer.excluded) for layer in one.layers[:60]]
    return (
        f"<h2>Layers of {escape(one.name)}</h2><p>Error of the output where this layer alone is in 8 bits; red ones "
        f"were left in floating point.</p>{bars(shown)}"
    )


def _worst(one: CandidateReport) -> str:
    rows = [
        [
            f"{worst.sample}",
            escape(worst.shown[:200]),
            "not finite" if worst.error is None else f"{worst.error:.2g}",
            f"<code>{_numbers(worst.original)}</code>",
            f"<code>{_numbers(worst.candidate)}</code>",
        ]
        for worst in one.worst
    ]
    shown = table(["sample (number in the file, from 1)", "", "error", "original", one.name], rows, numbers={0, 2})
    return f"<h2>Worst samples of {escape(one.name)}</h2>{shown}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _facts(report: Report) -> str:
    samples, machine, goals = report.samples, report.machine, report.goals
    invariance = "required" if goals.batch_invariance else "only reported"
    facts = [
        ("source", f"{report.source.path} ({report.source.kind}; {report.source.note or 'as it is'})"),
        ("SHA-256 of the source", report.source.sha256),
        *((f"SHA-256 of {one.path}, on which it depends", one.sha256) for one in report.source.files[:_FILES]),
        ("output", report.output),
        ("goal", f"{goals.metric_name}, drop at most {goals.max_drop:g}; batch invariance {invariance}, within "
         f"{goals.batch_tolerance:g} of the largest value; speed at least {goals.min_speedup:g}"
         + (f"; within {goals.slo_ms:g} ms" if goals.slo_ms else "")),
        ("samples", f"{samples.path}: {samples.calibration} to calibrate, {samples.held_out} held out, "
         f"seed {samples.seed}"
         + (f"; {samples.duplicates} duplicates left out" if samples.duplicates else "")
         + f"; {samples.shortest} to {samples.longest} elements: of longer ones nothing is known"
         + (f"; labels by {samples.head}: {MEANINGS[samples.head]}" if samples.head in MEANINGS else "")),
        ("SHA-256 of the samples", samples.sha256),
        ("processor", f"{machine.processor}, {machine.cores} cores; {machine.threads} threads an instance"),
        ("instruction sets", ", ".join(machine.isa)),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("when", f"{report.started_at}, {report.seconds:.0f} s"),
        *((f"SHA-256 of {one.name}", one.model_sha256) for one in report.candidates if one.model_sha256),
    ]  # fmt: skip
    return table(["", ""], [[escape(name), f"<code>{escape(value)}</code>"] for name, value in facts], numbers=set())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: set[int]) -> str:
    """Rows of HTML below their heads; `numbers`: the columns that hold some."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place in numbers else ''}>{value}</{tag}>" for place, value in enumerate(values)
        )

    lines = [cells([escape(one) for one in heads], "th")] if any(heads) else []
    lines += [cells(row, "td") for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
