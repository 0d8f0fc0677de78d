"""What `forebay tune` shows while it measures."""

from __future__ import annotations

import io

from rich.console import Console
from tests.unit.tune.fake_machine import FakeMachine

from forebay.cli.tune_progress import TuneProgress
from forebay.tune.configuration import Configuration
from forebay.tune.slo import Slo

SLO = Slo(0.99, 50.0)
ONE, OTHER = Configuration("net", 2, 1, 256), Configuration("net", 1, 2, 256)


def machine() -> FakeMachine:
    return FakeMachine({ONE: 150.0, OTHER: 90.0}, SLO)


def test_a_terminal_shows_what_is_measured_the_time_and_the_best_so_far() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    world = machine()
    with TuneProgress(console, world, SLO, 300.0, world.clock) as progress:
        progress.look(ONE.group, [256])
        progress.probe(OTHER, 80.0)
        progress.probe(ONE, 140.0)
        progress.probe(ONE, 400.0)
        progress.probe(ONE, 145.0, final=True)
        progress.found("net 2x1 cap 256: holds")
        progress.refresh()
        spent_s = world.now_s
    shown = screen.getvalue()
    for told in (
        "5. finals: net 2x1 cap 256 at 145.0 requests/s",
        f"{spent_s:.0f} of 300 s at most",
        "best so far: net 2x1 cap 256, 145.0 answers/s in time",
        "net 2x1 cap 256: holds",
    ):
        assert told in shown


def test_without_a_terminal_there_are_findings_only() -> None:
    screen = io.StringIO()
    world = machine()
    with TuneProgress(Console(file=screen, width=160), world, SLO, 300.0, world.clock) as progress:
        progress.probe(ONE, 140.0)
        progress.found("net 2x1 cap 256: [holds]")
    assert screen.getvalue() == "net 2x1 cap 256: [holds]\n"
