"""`forebay jobs dead`: jobs that failed for good, looked at, run again, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from forebay.cli.remote import DEFAULT_URL, ApiKey, AsJson, Url, as_json, refuse_empty, talking
from forebay.client import Client, Job
from forebay.core.errors import RequestError, SetupError

_HELP = "Jobs that failed for good: list, replay, purge."

app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False, pretty_exceptions_enable=False)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of failed jobs.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All failed jobs, of --model where that is given.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only of this model.", show_default=False)]


@app.callback(help=_HELP)
def dead() -> None:
    """Jobs that failed for good: list, replay, purge."""


@app.command("list")
def list_(
    model: OfModel = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1_000_000, help="Most jobs.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    json_: AsJson = False,
) -> None:
    """List failed jobs, the newest first, each with its error.

    Examples:

      forebay jobs dead list

      forebay jobs dead list --model mlp --json | jq -r .error.code | sort | uniq -c
    """
    refuse_empty(**{"--model": model})
    with talking(url, api_key) as client:
        found = list(islice(client.jobs(model=model or "", status="failed"), limit))
    for job in found:
        typer.echo(as_json(job) if json_ else f"{job.id} {job.model} {_reason(job)}")


@app.command("replay")
def replay(
    ids: Ids = None,
    all_: All = False,
    model: OfModel = None,
    purge_: Annotated[bool, typer.Option("--purge", help="Forget each failed job once its replay is queued.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Run failed jobs again, each as a new job that names the failed one; the failed one keeps its answer.

    Repeating it makes no second replay of the same job. One that fails again is a failed job of its own.

    Examples:

      forebay jobs dead replay 01a2123f-7477-72c8-938a-d2cc96a1ed2d

      forebay jobs dead replay --all --model mlp --purge
    """
    with talking(url, api_key) as client:
        for job in _chosen(client, ids or [], all_, model):
            new = client.replay(job)
            typer.echo(f"{job.id} replayed as {new.id}")
            if purge_:
                client.delete(job)


@app.command("purge")
def purge(
    ids: Ids = None,
    all_: All = False,
    model: OfModel = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Forget failed jobs, their inputs and errors, before their retention is over.

    Examples:

      forebay jobs dead purge 01a2123f-7477-72c8-938a-d2cc96a1ed2d

      forebay jobs dead purge --all --model mlp --yes
    """
    with talking(url, api_key) as client:
        jobs = _chosen(client, ids or [], all_, model)
        if all_ and not yes:
            typer.confirm(f"Forget all failed jobs{f' of model {model}' if model else ''} at {url}?", abort=True)
        for job in jobs:
            client.delete(job)
            typer.echo(f"{job.id} purged")


def _chosen(client: Client, ids: list[str], all_: bool, model: str | None) -> Iterator[Job]:
    """The failed jobs that are meant. Raises `SetupError`; and `RequestError` for one that has not failed."""
    refuse_empty(**{"--model": model})
    if bool(ids) == all_:
        raise SetupError("give either IDs of failed jobs or --all")
    if model and not all_:
        raise SetupError("--model goes with --all; an ID says which job it is")
    return client.jobs(model=model or "", status="failed") if all_ else _failed(client, ids)


def _failed(client: Client, ids: list[str]) -> Iterator[Job]:
    for id in ids:
        job = client.job(id)
        if job.status != "failed":
            raise RequestError(f"job {id} is {job.status}, no dead letter", code="job_not_failed")
        yield job


def _reason(job: Job) -> str:
    return "" if job.error is None else f"{job.error.code}: {' '.join(job.error.message.split())}"
