"""Pictures of a run: throughput with its spread, and goodput by offered load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import TITLES
from matplotlib.figure import Figure


def write(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """One picture a closed-loop workload and one an open-loop model; returns their paths."""
    written = [_throughput(folder, name, results[name]) for name in TITLES if results.get(name)]
    written += [_goodput(folder, model, found) for model, found in (results.get("open_loop") or {}).items()]
    return written


def _throughput(folder: Path, name: str, found: Mapping[str, Any]) -> Path:
    # The loop without a server at its best batch would push all others against the axis.
    rates = {peer: rate for peer, rate in found["rates"].items() if name != "mlp" or not peer.startswith("no server")}
    names = sorted(rates, key=lambda peer: rates[peer]["median"])
    middle = [rates[peer]["median"] for peer in names]
    below = [rates[peer]["median"] - rates[peer]["lowest"] for peer in names]
    above = [rates[peer]["highest"] - rates[peer]["median"] for peer in names]
    figure = Figure(figsize=(8, 0.5 * len(names) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    colours = ["tab:blue" if peer == "Forebay" else "tab:gray" for peer in names]
    axes.barh(names, middle, xerr=[below, above], color=colours, capsize=3)
    axes.set_xlabel(found["unit"])
    axes.set_title(TITLES[name], fontsize=10)
    return _save(figure, folder / f"{name}.png")


def _goodput(folder: Path, model: str, found: Mapping[str, Any]) -> Path:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for process, summary in found["summary"].items():
        loads = sorted(summary["goodput_per_s"], key=float)
        label = {"poisson": "Poisson", "onoff": "bursts, 10:1"}[process]
        axes.plot(
            [float(load) for load in loads], [summary["goodput_per_s"][load] for load in loads], "o-", label=label
        )
    highest = max((run["load"] for run in found["runs"]), default=1.0)
    axes.plot([0, 1, highest], [0, found["capacity"], found["capacity"]], "k:", label="offered, up to capacity")
    axes.set_xlabel("offered load, share of capacity")
    axes.set_ylabel(f"answers within {found['slo_ms']:g} ms, a second")
    axes.set_title(f"{model}: goodput by offered load")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    return _save(figure, folder / f"open-loop-{model}.png")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
