"""`forebay simulate`: the batcher under a virtual clock."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table as RichTable

from forebay.batching.batcher import Batcher
from forebay.batching.costs import Noise
from forebay.batching.inputs import ARRIVAL_FORMS, COST_FORMS, parse_arrivals, parse_cost, parse_lengths
from forebay.batching.policy import Policy
from forebay.batching.reference import FixedSize
from forebay.batching.simulate import MakeBatcher, Outcome, Scenario, simulate_scenario
from forebay.cli.curves import check_plot, drawn_beside, pyplot
from forebay.core.errors import SetupError

REFERENCES: Final = ((1, 0), (8, 0), (8, 5), (8, 20), (32, 0), (32, 5), (32, 20), (64, 0), (64, 5), (64, 20))
"""Sizes and delays (ms) of the fixed policies that `--compare` runs."""
LONG_RUN_REQUESTS: Final = 50_000
"""Above so many requests a progress bar is shown."""
BAR_WIDTH: Final = 40


@dataclass(frozen=True)
class Run:
    """One line of the result."""

    name: str
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """Numbers of the run; times in milliseconds, rates a second."""
        outcome = self.outcome
        return {
            "policy": self.name,
            "sent": outcome.sent,
            "goodput_per_s": outcome.goodput,
            "good": outcome.good,
            "late": outcome.late,
            "expired": outcome.expired,
            "refused": outcome.refused,
            "mean_ms": outcome.mean_s * 1e3,
            "p50_ms": outcome.quantile_s(0.5) * 1e3,
            "p99_ms": outcome.quantile_s(0.99) * 1e3,
            "mean_batch_rows": outcome.mean_batch_rows,
            "batches_by_rows": {str(rows): count for rows, count in sorted(outcome.batch_rows.items())},
            "dispatch_reasons": {str(reason): count for reason, count in sorted(outcome.reasons.items())},
        }


def simulate(
    rate: Annotated[float, typer.Option(help="Requests a second, on average.", min=1e-6)] = 500.0,
    arrivals: Annotated[str, typer.Option(help=f"One of: {ARRIVAL_FORMS}")] = "poisson",
    latency: Annotated[str, typer.Option(help=f"True time of a batch, one of: {COST_FORMS}")] = "linear:20ms,1ms",
    lengths: Annotated[str, typer.Option(help="Lengths of the rows, one of: fixed  text  LOW-HIGH")] = "fixed",
    slo_ms: Annotated[float, typer.Option(help="Milliseconds from arrival to deadline.", min=0.001)] = 30_000.0,
    instances: Annotated[int, typer.Option(help="Loaded copies of the model.", min=1)] = 1,
    max_batch_rows: Annotated[int, typer.Option(help="Largest batch.", min=1)] = 64,
    hand_over_us: Annotated[float, typer.Option(help="Cost of handing a batch over and back.", min=0.0)] = 0.0,
    noise: Annotated[float, typer.Option(help="Relative spread of batch times (lognormal).", min=0.0)] = 0.0,
    seconds: Annotated[float, typer.Option(help="Virtual seconds.", min=0.001)] = 30.0,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 1,
    compare: Annotated[bool, typer.Option("--compare", help="Also run fixed batch sizes with fixed delays.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write latency and batch sizes as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate the batching of one model under a virtual clock: arrivals and costs in, latency and goodput out.

    Examples:

      forebay simulate --rate 700 --latency linear:20ms,1ms --slo-ms 105

      forebay simulate --rate 150 --latency minilm --lengths text --instances 2 --slo-ms 500 --compare

      forebay simulate --arrivals bursts --rate 400 --slo-ms 200 --plot bursts.png
    """
    for flag, number in (("--rate", rate), ("--slo-ms", slo_ms), ("--seconds", seconds), ("--noise", noise)):
        if not math.isfinite(number):
            raise SetupError(f"{flag} {number}: it must be a finite number")
    if not math.isfinite(hand_over_us):
        raise SetupError(f"--hand-over-us {hand_over_us}: it must be a finite number")
    if plot is not None:
        check_plot(plot)
    try:
        form = parse_arrivals(arrivals, rate)
        scenario = Scenario(
            cost=parse_cost(latency),
            arrivals=form.instants,
            clients=form.clients,
            seconds=seconds,
            slo_s=slo_ms / 1e3,
            instances=instances,
            hand_over_s=hand_over_us / 1e6,
            lengths=parse_lengths(lengths),
            policy=Policy(max_batch_rows=max_batch_rows),
            noise=Noise(noise),
            seed=seed,
        )
    except ValueError as error:
        raise SetupError(str(error)) from None
    plan: list[tuple[str, Scenario, MakeBatcher]] = [("Forebay", scenario, Batcher)]
    for size, delay_ms in REFERENCES if compare else ():
        policy = Policy(max_batch_rows=size, max_queue_delay_s=delay_ms / 1e3)
        plan.append((f"size {size} delay {delay_ms} ms", replace(scenario, policy=policy), FixedSize))
    runs = _run_all(plan, show_progress=not as_json and rate * seconds * len(plan) > LONG_RUN_REQUESTS)
    if as_json:
        typer.echo(json.dumps([run.to_json() for run in runs], indent=2))
    else:
        _print(runs)
    if plot is not None:
        _plot(runs, plot)


def _run_all(plan: list[tuple[str, Scenario, MakeBatcher]], *, show_progress: bool) -> list[Run]:
    runs = []
    with Progress(console=Console(stderr=True), disable=not show_progress, transient=True) as progress:
        for name, scenario, make in plan:
            bar = progress.add_task(name, total=scenario.seconds)

            def advance(now: float, bar: TaskID = bar) -> None:
                progress.update(bar, completed=now)

            runs.append(Run(name, simulate_scenario(scenario, make, advance if show_progress else None)))
            progress.update(bar, completed=scenario.seconds)
    return runs


def _print(runs: list[Run]) -> None:
    console = Console()
    table = RichTable(box=None, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for title in ("in time/s", "refused %", "504 %", "mean ms", "p50 ms", "p99 ms", "rows a batch"):
        table.add_column(title, justify="right")
    best = max(run.outcome.good for run in runs)
    for run in runs:
        outcome = run.outcome
        table.add_row(
            run.name,
            f"{outcome.goodput:.1f}",
            f"{100 * outcome.refused / max(1, outcome.sent):.1f}",
            f"{100 * outcome.broken:.2f}",
            f"{outcome.mean_s * 1e3:.2f}",
            f"{outcome.quantile_s(0.5) * 1e3:.2f}",
            f"{outcome.quantile_s(0.99) * 1e3:.2f}",
            f"{outcome.mean_batch_rows:.1f}",
            style="bold" if len(runs) > 1 and outcome.good == best else None,
        )
    console.print(table)
    console.print()
    console.print("[bold]Batches by rows[/bold] (Forebay)")
    for label, count, bar in histogram(runs[0].outcome.batch_rows):
        console.print(f"{label:>9} {count:>8}  {bar}", highlight=False)
    reasons = runs[0].outcome.reasons
    if reasons:
        console.print("dispatched: " + ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())))


def histogram(batch_rows: dict[int, int]) -> list[tuple[str, int, str]]:
    """Lines of (rows from-to, batches, bar) in powers of two, gaps included."""
    if not batch_rows:
        return []
    counts: dict[int, int] = {}
    for rows, count in batch_rows.items():
        power = (rows - 1).bit_length()
        counts[power] = counts.get(power, 0) + count
    most = max(counts.values())
    lines = []
    for power in range(min(counts), max(counts) + 1):
        low, high = (1 << power >> 1) + 1 if power else 1, 1 << power
        count = counts.get(power, 0)
        label = str(high) if low >= high else f"{low}-{high}"
        lines.append((label, count, "█" * max(int(count > 0), round(BAR_WIDTH * count / most))))
    return lines


def _plot(runs: list[Run], path: Path) -> None:
    colours = pyplot().colormaps["viridis"]
    with drawn_beside(path, 2, (11, 4.2)) as (left, right):
        for number, run in enumerate(runs):
            latencies = sorted(run.outcome.latencies)
            if latencies:
                shares = [(place + 1) / len(latencies) for place in range(len(latencies))]
                own, colour = {"lw": 2.5, "color": "crimson", "zorder": 3}, colours(number / len(runs))
                look = own if number == 0 else {"lw": 1, "color": colour}
                left.plot([s * 1e3 for s in latencies], shares, label=run.name, **look)
        left.set(xlabel="latency (ms)", ylabel="share of answers", title="Latency", ylim=(0, 1.02))
        rows = runs[0].outcome.batch_rows
        right.bar(list(rows), list(rows.values()), width=0.9)
        right.set(xlabel="rows", ylabel="batches", title="Batches by rows (Forebay)")
