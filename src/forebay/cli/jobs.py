"""`forebay jobs`: the jobs of a running server."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from forebay.cli.dead_jobs import app as dead
from forebay.cli.job_watch import watch_many, watch_one
from forebay.cli.remote import DEFAULT_URL, EXIT_REFUSED, ApiKey, AsJson, Url, as_json, talking
from forebay.client import Job
from forebay.core.errors import SetupError

_HELP = "Look at jobs, cancel them, follow them."
_PIPED_COLUMNS = 1000

app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(dead, name="dead")

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]


@app.callback(help=_HELP)
def jobs() -> None:
    """Look at jobs, cancel them, follow them."""


@app.command("list")
def list_(
    model: Annotated[str, typer.Option("--model", help="Only of this model.", show_default=False)] = "",
    status: Annotated[Status | None, typer.Option("--status", help="Only those that are so now.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1_000_000, help="Most jobs.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    json_: AsJson = False,
) -> None:
    """List jobs, the newest first. With API keys everybody sees their own.

    Examples:

      forebay jobs list

      forebay jobs list --model mlp --status running

      forebay jobs list --limit 1000 --json | jq -r .id
    """
    with talking(url, api_key) as client:
        found = list(islice(client.jobs(model=model, status=status or ""), limit))
    print_jobs(found, json_)


@app.command("show")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    json_: AsJson = False,
) -> None:
    """Show a job, with its output or its error.

    Examples:

      forebay jobs show 01a2123f-7477-72c8-938a-d2cc96a1ed2d

      forebay jobs show 01a2123f-7477-72c8-938a-d2cc96a1ed2d --json | jq .output
    """
    with talking(url, api_key) as client:
        job = client.job(id)
    if json_:
        typer.echo(as_json(job))
        return
    for name, value in _shown(job).items():
        typer.echo(f"{name:12} {value}")


@app.command("cancel")
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The jobs' ids.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Cancel jobs. A run that goes on is discarded. Exit code 1: one had ended before.

    Examples:

      forebay jobs cancel 01a2123f-7477-72c8-938a-d2cc96a1ed2d

      forebay jobs list --status queued --limit 1000 --json | jq -r .id | xargs forebay jobs cancel
    """
    late = False
    with talking(url, api_key) as client:
        for id in ids:
            job = client.cancel(id)
            late = late or job.status != "canceled"
            typer.echo(f"{job.id} {job.status}")
    if late:
        raise typer.Exit(EXIT_REFUSED)


@app.command("submit")
def submit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name on the server.")],
    data: Annotated[
        str, typer.Option("--data", metavar="JSON|@FILE|-", help="The body, a file that holds it, or - for stdin.")
    ] = "-",
    content_type: Annotated[
        str, typer.Option("--content-type", help="Of the body: JSON, or an image such as image/png.")
    ] = "application/json",
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency-Key: the same key again is the same job.", show_default=False),
    ] = None,
    watch_: Annotated[bool, typer.Option("--watch", help="Follow it to its end, as forebay jobs watch does.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Submit a job and print its id. The options of a job (ttl_s, metadata, ...) stand in the body beside its inputs.

    Examples:

      forebay jobs submit mlp --data '{"input": {"x": [0.1, 0.2]}, "ttl_s": 60}'

      forebay jobs submit mlp --data @request.json --watch

      forebay jobs submit types --data @photo.png --content-type image/png
    """
    body = _body(data)
    with talking(url, api_key) as client:
        job = client.submit_body(model, body, content_type=content_type, idempotency_key=key)
        typer.echo(job.id)
        if watch_ and not watch_one(client, job):
            raise typer.Exit(EXIT_REFUSED)


@app.command("watch")
def watch(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The job's id.", show_default=False)] = None,
    model: Annotated[
        str, typer.Option("--model", help="All jobs of this model that have not ended.", show_default=False)
    ] = "",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Follow a job, or all of a model, to the end. Exit code 0: succeeded, all of them; 1: one did not.

    The server may restart meanwhile.

    Examples:

      forebay jobs watch 01a2123f-7477-72c8-938a-d2cc96a1ed2d

      forebay jobs watch --model mlp && echo all have succeeded
    """
    if (id is None) == (not model):
        raise SetupError("give either the ID of a job or --model")
    with talking(url, api_key) as client:
        good = watch_one(client, client.job(id)) if id is not None else watch_many(url, api_key, model)
    if not good:
        raise typer.Exit(EXIT_REFUSED)


def print_jobs(jobs: Sequence[Job], as_lines: bool) -> None:
    """Jobs as a table, or each as a line of JSON."""
    if as_lines:
        for job in jobs:
            typer.echo(as_json(job))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "model", "status", "attempt", "created", "took", "error"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "status"))
    for job in jobs:
        error = "" if job.error is None else f"{job.error.code}: {' '.join(job.error.message.split())}"
        attempt = f"{job.attempt}/{job.max_attempts}"
        created = f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
        table.add_row(job.id, job.model, job.status, attempt, created, _took(job), error)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS  # One line a job, so that grep finds all of it.
    console.print(table)


def _took(job: Job) -> str:
    if job.started_at is None or job.finished_at is None:
        return ""
    return f"{(job.finished_at - job.started_at).total_seconds():.3f} s"


def _shown(job: Job) -> dict[str, Any]:
    """What there is to say about it, in lines."""
    members = {**vars(job), "took": _took(job), "error": None}
    if job.error is not None:
        members["error"] = f"{job.error.code}: {job.error.message}"
    for name in ("output", "metrics", "metadata"):
        members[name] = msgspec.json.encode(members[name]).decode() if members[name] else None
    for name in ("created_at", "started_at", "finished_at"):
        members[name] = members[name] and members[name].isoformat(timespec="milliseconds")
    hidden = ("urls", "cached", "progress")
    return {name: value for name, value in members.items() if value not in (None, "") and name not in hidden}


def _body(data: str) -> bytes:
    """Raises `SetupError`."""
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return os.fsencode(data)
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise SetupError(f"--data {data}: {error.strerror}") from None
