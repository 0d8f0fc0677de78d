"""What commands that speak to a running server share: where it is, the key, and errors that name the mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from forebay.client import Client, Job, Retries
from forebay.core.errors import ForebayError, SetupError

DEFAULT_URL = "http://127.0.0.1:8000"
EXIT_REFUSED = 1
QUICK = Retries(attempts=3, first_wait_s=0.1, longest_wait_s=1.0)
"""Somebody sits before it."""

Url = Annotated[str, typer.Option("--url", help="The server.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="FOREBAY_API_KEY", help="Sent as `Authorization: Bearer`.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]

_MENDS = {
    "unauthorized": "give a valid API key with --api-key or FOREBAY_API_KEY",
    "job_not_found": "forebay jobs list shows those that there are",
    "model_not_found": "is --url the server that has it?",
}


def refuse_empty(**given: str | None) -> None:
    """Of what narrows a command down, an empty one is mostly a variable of the shell that is not set: then it would be
    done to all. Raises `SetupError`."""
    for name, value in given.items():
        if value == "":
            raise SetupError(f"{name} is empty; leave it away where all are meant")


@contextlib.contextmanager
def talking(url: str, api_key: str | None) -> Iterator[Client]:
    """A client of the server. What it is refused becomes a line on stderr and exit code 1."""
    with telling(url), Client(url, api_key=api_key, retries=QUICK) as client:
        yield client


@contextlib.contextmanager
def telling(url: str) -> Iterator[None]:
    """An error of the server, or that there is none, becomes a line on stderr and exit code 1."""
    try:
        yield
    except SetupError:
        raise
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8
        raise SetupError(f"{error.object[:60]!r} is not Unicode text") from None
    except ForebayError as error:
        typer.secho(f"error: {explained(error, url)}", fg=typer.colors.RED, err=True)
        raise typer.Exit(EXIT_REFUSED) from None


def explained(error: ForebayError, url: str) -> str:
    """What went wrong, in one line, and what to do about it."""
    message = " ".join(error.message.split())
    if error.code == "server_unreachable":
        return f"no server answers at {url} ({message}); start one with forebay serve, or name it with --url"
    mend = _MENDS.get(error.code, "")
    return f"{message}; {mend}" if mend else f"{message} ({error.code})"


def as_json(job: Job) -> str:
    """A job as one line of JSON."""
    members: dict[str, Any] = {name: value for name, value in vars(job).items() if name != "error"}
    if job.error is not None:
        members["error"] = {"code": job.error.code, "message": job.error.message}
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None}).decode()
