"""How a command tells that it cannot go on."""

from __future__ import annotations

import typer

from forebay.core.errors import SetupError

EXIT_SETUP = 2
"""Exit code of a start that failed: wrong settings, a model that does not load."""


def show_error(error: SetupError) -> None:
    """One line on stderr."""
    message = " ".join(error.message.split())
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
