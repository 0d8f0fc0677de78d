"""`forebay cache`: kept answers."""

from __future__ import annotations

import typer

from forebay.cli.calibrate import calibrate

_HELP = "Calibrate the semantic cache."

app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False, pretty_exceptions_enable=False)


@app.callback(help=_HELP)
def cache() -> None:
    """Calibrate the semantic cache."""


app.command("calibrate")(calibrate)
