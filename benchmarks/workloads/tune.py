"""`forebay tune` against every configuration of a small grid: the MLP and MiniLM.

Open loop. The grid is measured by the same servers, load and climb, without looks, foretelling or races: each
configuration climbs by itself, some rounds of it. Then tune's choice and the best of the grid climb in turns, so that
which of the two is ahead is not decided by when each was measured; and they take turns at the rate of the latter, where
one that falls short by a little has a queue that grows, and answers little in time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_run import Bench, Json, spread
from benchmarks.pools import texts
from benchmarks.servers import ServerFailedError
from benchmarks.workloads.minilm import OURS_MODEL
from benchmarks.workloads.mlp import MODEL as MLP_MODEL

from forebay.cli.flags import shown_value
from forebay.core.settings_sources import load_settings
from forebay.tune.climb import climb, keeps_up
from forebay.tune.configuration import Configuration, grid
from forebay.tune.contender import Contender, capacity, goodput
from forebay.tune.machine import Machine
from forebay.tune.search import FINAL_DOWN, MOST_ROUNDS, START
from forebay.tune.slo import Slo, parse_slo
from forebay.tune.subject import open_subject
from forebay.tune.world import Measures, Probe

DUEL_ROUNDS = 5
TEXTS = 1500


@dataclass(frozen=True)
class Subject:
    """A model under an objective. `inputs`: as `--inputs`."""

    path: str
    slo: str
    inputs: str | None


def run(bench: Bench) -> Json:
    """By model: the choice, what it reaches of the best of the grid, and in what part of the grid's time."""
    file = bench.scratch / "texts.txt"
    file.write_text("\n".join(texts(TEXTS)), "utf-8")
    subjects = {"mlp": Subject(str(MLP_MODEL), "p99=20ms", None), "minilm": Subject(OURS_MODEL, "p99=500ms", str(file))}
    return {
        model: _compare(bench, model, subject)
        for model, subject in subjects.items()
        if not bench.only or model in bench.only
    }


def _compare(bench: Bench, model: str, subject: Subject) -> Json:
    counts = list(range(1, bench.cores + 1))
    told = _tune(bench, model, subject, counts)
    chosen = Configuration(**told["chosen"])
    slo = parse_slo(subject.slo)
    opened = open_subject(
        subject.path, None, load_settings(config_file=None, environ={}, flags={}, sets=(), folder=None), subject.inputs,
        shown_value,
    )  # fmt: skip
    serve = (str(Path(sys.executable).with_name("forebay")), "serve")
    machine = Machine(
        {chosen.artefact: opened.artefact}, slo, serve, bench.scratch / f"grid-{model}", with_deadline=False
    )
    try:
        configurations = grid([chosen.artefact], counts, counts, bench.plan.tune_caps, bench.cores)
        began = time.monotonic()
        contenders = _climb_all(bench, model, machine, configurations, slo)
        grid_s = time.monotonic() - began
        best = max(contenders, key=lambda one: goodput(one.probes, slo))
        (ours,) = (one for one in contenders if one.configuration == chosen)
        duel, at_its_rate = (take(machine, ours, best, slo) for take in (_duel, _at_one_rate))
    finally:
        machine.close()
    rates = {str(one.configuration): goodput(one.probes, slo) for one in contenders}
    of_best, of_best_at_its_rate = (spread([a / b for a, b in turns]) for turns in (duel, at_its_rate))
    bench.tell(
        f"tune, {model}: {chosen} reaches {of_best['median']:.3f} of {best.configuration}, "
        f"{of_best_at_its_rate['median']:.3f} at the rate of that, in {told['spent_s']:.0f} s of {grid_s:.0f} s"
    )
    return {
        "slo": str(slo),
        "chosen": str(chosen),
        "chosen_per_s": told["goodput_per_s"],
        "best": str(best.configuration),
        "grid_per_s": rates,
        "of_best": of_best,
        "at_its_rate": of_best_at_its_rate,
        "tune_s": told["spent_s"],
        "grid_s": grid_s,
        "of_time": told["spent_s"] / grid_s,
    }


def _tune(bench: Bench, model: str, subject: Subject, counts: Sequence[int]) -> Json:
    """The command as anyone runs it; its figures."""
    numbers, caps = (",".join(map(str, values)) for values in (counts, bench.plan.tune_caps))
    figures = bench.scratch / f"tune-{model}.json"
    inputs = () if subject.inputs is None else ("--inputs", subject.inputs)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("forebay")), "tune", subject.path, "--slo", subject.slo, *inputs,
            "--instances", numbers, "--threads", numbers, "--batch-caps", caps, "--dry-run", "--json", str(figures),
        ],
        cwd=bench.scratch,
        env={name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise ServerFailedError(f"forebay tune failed: {done.stderr}")
    for line in done.stderr.splitlines():
        bench.tell(f"tune, {model}: {line}")
    told: Json = json.loads(figures.read_text())
    return told


def _climb_all(
    bench: Bench, model: str, machine: Machine, configurations: Sequence[Configuration], slo: Slo
) -> list[Contender]:
    contenders: list[Contender] = []
    for number in range(bench.plan.tune_rounds):
        for place, configuration in enumerate(configurations):
            if number == 0:
                look = machine.look(configuration.group, [configuration.max_batch_rows])
                contenders.append(Contender(configuration, look, look.saturated_per_s))
            contender = contenders[place]
            _climb(machine, contender, capacity(contender.probes, slo) or START * contender.ceiling, slo)
            bench.tell(f"tune, {model}: {configuration}: {goodput(contender.probes, slo):,.1f}/s within {slo}")
    return contenders


def _climb(machine: Measures, contender: Contender, start: float, slo: Slo) -> None:
    contender.low, contender.high = 0.0, float("inf")
    climb(contender, start, lambda one, rate: _holds(machine, one, rate, slo))
    _settle(machine, contender, slo)


def _settle(machine: Measures, contender: Contender, slo: Slo) -> None:
    """As in tune's finals: longer probes, from the rate of the climb down to one that holds."""
    rate = contender.low
    for _ in range(MOST_ROUNDS if rate else 0):
        probe = machine.probe(contender.configuration, rate, final=True)
        contender.probes.append(probe)
        if probe.holds(slo):
            return
        rate *= FINAL_DOWN


def _holds(machine: Measures, contender: Contender, rate: float, slo: Slo) -> bool:
    def probe() -> Probe:
        contender.probes.append(machine.probe(contender.configuration, rate))
        return contender.probes[-1]

    return keeps_up(probe, slo)


def _duel(machine: Measures, chosen: Contender, best: Contender, slo: Slo) -> list[tuple[float, float]]:
    """Goodput of both, round by round, each found by a climb of its own; one is as good as itself."""
    if chosen is best:
        return [(1.0, 1.0)]
    taken: list[tuple[float, float]] = []
    for number in range(DUEL_ROUNDS):
        found: dict[Configuration, float] = {}
        for one in (chosen, best) if number % 2 == 0 else (best, chosen):
            again = Contender(one.configuration, one.look, one.ceiling)
            _climb(machine, again, capacity(one.probes, slo), slo)
            found[one.configuration] = goodput(again.probes, slo)
        taken.append((found[chosen.configuration], found[best.configuration]))
    return taken


def _at_one_rate(machine: Measures, chosen: Contender, best: Contender, slo: Slo) -> list[tuple[float, float]]:
    """Answers in time a second, round by round, at the rate that the best one of the grid kept up."""
    if chosen is best:
        return [(1.0, 1.0)]
    rate = capacity(best.probes, slo)
    taken: list[tuple[float, float]] = []
    for number in range(DUEL_ROUNDS):
        order = (chosen, best) if number % 2 == 0 else (best, chosen)
        found = {one.configuration: machine.probe(one.configuration, rate, final=True).goodput_per_s for one in order}
        taken.append((found[chosen.configuration], found[best.configuration]))
    return taken
