"""`forebay keys`: make API keys, and secrets that webhooks are signed with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from forebay.api import webhook_secrets
from forebay.api.auth import Keys, key_line, new_secret
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.core.errors import SetupError

_HELP = "Make API keys and secrets of webhooks."

app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False, pretty_exceptions_enable=False)


@app.callback(help=_HELP)
def keys() -> None:
    """Make API keys and secrets of webhooks."""


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

    def check(text: str) -> None:
        if name in Keys.parse(text, str(file), allow_empty=True).names():
            raise SetupError(f"{file}: has a key named {name!r} already; take another name or remove its line")

    if file is not None:
        append_line(file, line, check)
    typer.echo(f"secret, shown once: {secret}")
    typer.echo(f"line for the keys file: {line}" if file is None else f"its line was added to {file}")


@app.command("webhook")
def webhook(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Append the secret to this file (made with 0600).")
    ] = None,
) -> None:
    """Make a secret that webhooks are signed with (Standard Webhooks). Server and receivers need the same one.

    A second one in the file signs as well, so that receivers can go over to it before the first is removed.

    Examples:

      forebay keys webhook --file webhooks.txt

      forebay serve model.onnx --jobs-webhook-secrets webhooks.txt
    """
    secret = webhook_secrets.new_secret()
    if file is not None:
        append_line(file, secret, lambda text: WebhookSecrets.parse(text, str(file), allow_empty=True))
    typer.echo(f"secret: {secret}")
    if file is not None:
        typer.echo(f"it was added to {file}")


def append_line(file: Path, line: str, check: Callable[[str], object]) -> None:
    """Adds a line to a file that is made readable by its owner only; `check` may refuse the text before it.

    Raises `SetupError`, the file unchanged.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as opened:
            text = opened.read()
            check(text)
            opened.write(line + "\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
        raise SetupError(f"{file}: cannot be written: {reason}") from None
