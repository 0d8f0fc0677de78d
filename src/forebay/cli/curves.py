"""Shares on the command line, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forebay.cli.written import check_writable
from forebay.core.errors import SetupError


def parse_share(option: str, text: str) -> float:
    """`1%` and `0.01` are the same. Raises `SetupError` that names the option."""
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1.0:
        raise SetupError(f"{option} {text}: write a share between 0 and 1, such as 1% or 0.01")
    return value


def pyplot() -> Any:
    """Raises `SetupError` where the library is missing."""
    try:
        import matplotlib
    except ImportError:
        raise SetupError("--plot needs matplotlib: pip install 'forebay[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def check_plot(path: Path) -> None:
    """Raises `SetupError` where no picture can be written there, before there is anything to draw."""
    plots = pyplot()
    check_writable("--plot", path)
    figure = plots.figure()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    plots.close(figure)
    if path.suffix and path.suffix[1:].lower() not in kinds:  # without a suffix it is a PNG
        raise SetupError(f"--plot {path}: {path.suffix} is not written; that is {', '.join(kinds)}")


@contextmanager
def drawn(path: Path) -> Iterator[Any]:
    """Axes to draw on; with the end of the block they are in this file. Raises `SetupError`."""
    with drawn_beside(path, 1, (7, 4.2)) as (axes,):
        yield axes


@contextmanager
def drawn_beside(path: Path, columns: int, inches: tuple[float, float]) -> Iterator[list[Any]]:
    """So many axes side by side, on a picture of this size, to draw on as on those of `drawn`."""
    plots = pyplot()
    figure, grid = plots.subplots(1, columns, figsize=inches, layout="constrained", squeeze=False)
    all_axes = list(grid[0])
    try:
        yield all_axes
        for axes in all_axes:
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize="small")
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write the plot {path}: {error}") from None
    finally:
        plots.close(figure)
