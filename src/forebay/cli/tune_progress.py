"""What `forebay tune` shows while it measures: what it is at, the time, the best so far; each finding as a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from forebay.tune.configuration import Configuration
from forebay.tune.configuration import Group as Alike
from forebay.tune.slo import Slo
from forebay.tune.world import Look, Probe, World


class TuneProgress:
    """A world that tells what it is asked. Without a terminal only the lines of findings appear."""

    def __init__(self, console: Console, world: World, slo: Slo, most_s: float, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds."""
        self._console, self._world, self._slo, self._most_s, self._clock = console, world, slo, most_s, clock
        self._best, self._goodput = "", 0.0
        self._now, self._began_s = "starting", clock()
        self._calls = 0
        self._spinner = Spinner("dots")
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._shown)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def refresh(self) -> None:
        """Draw now, not at the next tick."""
        self._live.refresh()

    def found(self, line: str) -> None:
        """A finding."""
        self._console.print(line, markup=False)

    def spent_s(self) -> float:
        """See `World`."""
        return self._world.spent_s()

    def look(self, group: Alike, caps: Sequence[int]) -> Look:
        """See `World`."""
        with self._at(f"a first look at {group.artefact} {group.size}"):
            return self._world.look(group, caps)

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        """See `World`."""
        with self._at(f"{'finals: ' if final else ''}{configuration} at {rate:,.1f} requests/s"):
            probe = self._world.probe(configuration, rate, final=final)
        if probe.holds(self._slo) and probe.goodput_per_s > self._goodput:
            self._best, self._goodput = str(configuration), probe.goodput_per_s
        return probe

    @contextmanager
    def _at(self, what: str) -> Iterator[None]:
        self._calls += 1
        self._now, self._began_s = what, self._clock()
        try:
            yield
        finally:
            self._began_s = self._clock()  # the world has counted what it took

    def _shown(self) -> RenderableType:
        took_s = self._clock() - self._began_s
        spent_s = min(self._most_s, self._world.spent_s() + took_s)
        self._spinner.update(text=Text(f"{self._calls}. {self._now}, {took_s:.0f} s"))
        time = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._most_s, completed=spent_s, width=40)
        time.add_row(bar, f"{spent_s:.0f} of {self._most_s:g} s at most")
        best = f"best so far: {self._best}, {self._goodput:,.1f} answers/s in time" if self._best else ""
        return Group(self._spinner, time, Text(best))
