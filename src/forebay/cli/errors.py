"""How a command tells that it cannot go on."""

from __future__ import annotations

import traceback

import typer

from forebay.core.errors import SetupError

EXIT_SETUP = 2
"""Exit code of a start that failed: wrong settings, a model that does not load."""
EXIT_FAULT = 70
"""Exit code of a fault of Forebay's own, as sysexits.h has it. Not 1, by which commands tell what they found."""


def show_fault() -> None:
    """The traceback of what nobody foresaw, and whose fault it is, on stderr."""
    traceback.print_exc()
    typer.secho("error: this is a fault of Forebay's, please report the lines above", fg=typer.colors.RED, err=True)


def show_error(error: SetupError) -> None:
    """One line on stderr, with the error's code at its end unless that is `config_error`, the usual one."""
    message = " ".join(error.message.split())
    code = "" if error.code == SetupError.code else f" ({error.code})"
    typer.secho(f"error: {message}{code}", fg=typer.colors.RED, err=True)
