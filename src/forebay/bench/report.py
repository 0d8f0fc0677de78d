"""A run for a person: a table, a histogram of latencies in the terminal, a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from forebay.bench.recording import Floats, LoadResult, Percentiles
from forebay.core.errors import SetupError

_BARS = 16
_WIDTH = 48


def print_result(console: Console, result: LoadResult, latencies_s: Floats) -> None:
    """Print figures and a histogram of the latencies of answers 200."""
    console.print(result_table(result))
    if result.latency_ms is not None:
        console.print(histogram(latencies_s, result.slo_ms))
    if result.void:
        console.print(f"[bold red]VOID[/]: {result.void}. These figures do not count.")


def result_table(result: LoadResult) -> Table:
    """The figures of a run as a table of name and value."""
    table = Table(show_header=False, title=f"{result.mode} loop, {result.seconds:g} s")
    table.add_column(style="cyan")
    table.add_column(justify="right")
    slo = "" if result.slo_ms is None else f" (SLO {result.slo_ms:g} ms)"
    rows = [
        ("sent", f"{result.sent} ({result.offered_per_s:,.1f}/s)"),
        ("throughput, answers 200", f"{result.throughput_per_s:,.1f}/s"),
        (f"goodput{slo}", f"{result.goodput_per_s:,.1f}/s"),
        ("200 in time", str(result.in_slo)),
        ("200 late", str(result.late)),
        ("503 refused", str(result.refused)),
        ("504 deadline passed", str(result.deadline)),
        ("errors", _errors(result)),
        ("answers checked", f"{result.checked}, {result.wrong} wrong"),
        ("latency of 200", _spread(result.latency_ms)),
        ("time to a refusal", _spread(result.refusal_ms)),
        ("generator: late by", _spread(result.lateness_ms)),
        ("generator: CPU", f"{result.cpu_share:.0%} of a core, {result.connections} connections"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def histogram(latencies_s: Floats, slo_ms: float | None = None) -> str:
    """Latencies as bars on a logarithmic axis, one line a bin; bins past the SLO are red."""
    if latencies_s.size == 0:
        return "no answers"
    milliseconds = np.maximum(latencies_s * 1e3, 1e-3)
    low, high = float(milliseconds.min()), float(milliseconds.max())
    edges = np.geomspace(low, max(high, low * 1.001), _BARS + 1)
    counts, _ = np.histogram(milliseconds, bins=edges)
    lines: list[str] = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(_WIDTH * int(count) / max(int(counts.max()), 1))
        colour = "red" if slo_ms is not None and left >= slo_ms else "green"
        lines.append(f"{left:9.2f} to {right:9.2f} ms [{colour}]{bar}[/] {count}")
    return "\n".join(lines)


def plot_latencies(path: Path, result: LoadResult, latencies_s: Floats) -> None:
    """Write the cumulative share of latencies as a picture. Raises `SetupError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("--plot needs matplotlib; install it with: pip install 'forebay[plot]'") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    ordered = np.sort(latencies_s) * 1e3
    axes.step(ordered, np.arange(1, ordered.size + 1) / max(ordered.size, 1), where="post")
    if result.slo_ms is not None:
        axes.axvline(result.slo_ms, color="tab:red", linestyle="--", label=f"SLO {result.slo_ms:g} ms")
        axes.legend()
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("share of answers 200")
    axes.set_title(f"{result.throughput_per_s:,.0f} answers/s" + (" (VOID)" if result.void else ""))
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=120)


def _errors(result: LoadResult) -> str:
    odd = {name: count for name, count in result.statuses.items() if name not in ("200", "503", "504")}
    return str(result.errors) + (f" ({', '.join(f'{name}: {count}' for name, count in odd.items())})" if odd else "")


def _spread(values: Percentiles | None) -> str:
    if values is None:
        return "-"
    return f"p50 {values.p50:.2f}  p90 {values.p90:.2f}  p99 {values.p99:.2f}  max {values.highest:.2f} ms"
