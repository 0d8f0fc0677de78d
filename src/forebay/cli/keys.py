"""`forebay keys new`: make an API key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from forebay.api.auth import Keys, key_line, new_secret
from forebay.core.errors import SetupError

app = typer.Typer(no_args_is_help=True, help="Make API keys.", add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; jobs and quotas go by it.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Append the key's line to this file (made with 0600).")
    ] = None,
) -> None:
    """Make an API key. The secret is shown once and kept nowhere; the server needs only the line with its hash.

    Examples:

      forebay keys new alice --file keys.txt

      forebay serve model.onnx --host 0.0.0.0 --api-keys keys.txt

      curl -H "Authorization: Bearer fb_..." http://HOST:8000/v2/models/model
    """
    secret = new_secret()
    line = key_line(name, secret)
    if file is not None:
        append_line(file, name, line)
    typer.echo(f"secret, shown once: {secret}")
    typer.echo(f"line for the keys file: {line}" if file is None else f"its line was added to {file}")


def append_line(file: Path, name: str, line: str) -> None:
    """Adds a line to a keys file, which is made readable by its owner only. Raises `SetupError`, the file unchanged."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as opened:
            text = opened.read()
            if name in Keys.parse(text, str(file), allow_empty=True).names():
                raise SetupError(f"{file}: has a key named {name!r} already; take another name or remove its line")
            opened.write(line + "\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
        raise SetupError(f"{file}: cannot be written: {reason}") from None
