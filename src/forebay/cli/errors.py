"""How a command tells that it cannot go on."""

from __future__ import annotations

import typer

from forebay.core.errors import SetupError

EXIT_SETUP = 2
"""Exit code of a start that failed: wrong settings, a model that does not load."""


def show_error(error: SetupError) -> None:
    """One line on stderr, with the error's code at its end unless that is `config_error`, the usual one."""
    message = " ".join(error.message.split())
    code = "" if error.code == SetupError.code else f" ({error.code})"
    typer.secho(f"error: {message}{code}", fg=typer.colors.RED, err=True)
