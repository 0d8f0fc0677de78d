"""What commands that choose a threshold share: shares on the command line, and pictures of what a threshold does."""

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
    plots = pyplot()
    figure, axes = plots.subplots(figsize=(7, 4.2), layout="constrained")
    try:
        yield axes
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write the plot {path}: {error}") from None
    finally:
        plots.close(figure)
