"""What `forebay distill` shows while it works: rows asked, then loss and agreement by epoch, as they come."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from forebay.distill.plots import spark
from forebay.distill.report import Epoch

_WIDTH = 48
_SHOWN = 8
_LINE_S = 10.0
"""Without a terminal, progress is told every so many seconds."""


class DistillProgress:
    """See `forebay.distill.run.Watcher`. Without a terminal, lines in place of what is drawn anew."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._now, self._began = "starting", time.monotonic()
        self._asked: tuple[int, int, float] | None = None
        self._told = 0.0
        self._epochs: list[Epoch] = []
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

    def says(self, text: str) -> None:
        """See `Watcher.says`."""
        self._now, self._began, self._asked = text, time.monotonic(), None
        self._told = self._began
        if not self._console.is_terminal:
            self._line(text)

    def asking(self, done: int, total: int, rows_per_s: float) -> None:
        """See `Watcher.asking`."""
        self._asked = (done, total, rows_per_s)
        now = time.monotonic()
        if not self._console.is_terminal and done and (done == total or now - self._told >= _LINE_S):
            self._told = now
            self._line(f"{done:,} of {total:,} rows asked, {rows_per_s:,.0f} rows/s")

    def epoch(self, epoch: Epoch) -> None:
        """See `Watcher.epoch`."""
        self._epochs.append(epoch)
        if not self._console.is_terminal:
            self._line(_told(epoch))

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def _shown(self) -> RenderableType:
        self._spinner.update(text=Text(f"{self._now}, {time.monotonic() - self._began:.0f} s"))
        parts: list[RenderableType] = [self._spinner]
        if self._asked is not None:
            done, total, rate = self._asked
            grid = Table.grid(padding=(0, 1))
            left = f", {(total - done) / rate:,.0f} s left" if rate > 0 else ""
            grid.add_row(
                ProgressBar(total=max(total, 1), completed=done, width=_WIDTH),
                f"{done:,} of {total:,} rows, {rate:,.0f} rows/s{left}",
            )
            parts.append(grid)
        if self._epochs:
            parts.append(self._plot())
            parts += [Text(_told(epoch)) for epoch in self._epochs[-_SHOWN:]]
        return Group(*parts)

    def _plot(self) -> Table:
        last = self._epochs[-1]
        best = max(epoch.agreement for epoch in self._epochs)
        grid = Table.grid(padding=(0, 1))
        grid.add_row("loss", spark([epoch.loss for epoch in self._epochs], _WIDTH), f"{last.loss:.4f}")
        grid.add_row(
            "held out", spark([epoch.held_out_loss for epoch in self._epochs], _WIDTH), f"{last.held_out_loss:.4f}"
        )
        grid.add_row(
            "agreement",
            spark([epoch.agreement for epoch in self._epochs], _WIDTH),
            f"{last.agreement:.2%}, best {best:.2%}",
        )
        return grid


def _told(epoch: Epoch) -> str:
    note = f" ({epoch.note})" if epoch.note else ""
    return (
        f"epoch {epoch.number}{note}: loss {epoch.loss:.4f}, held out {epoch.held_out_loss:.4f}, agreement "
        f"{epoch.agreement:.2%}, {epoch.seconds:.1f} s"
    )
