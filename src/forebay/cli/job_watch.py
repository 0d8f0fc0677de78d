"""Following jobs on a screen: a bar on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from forebay.client import AsyncClient, Client, Job, JobEvent
from forebay.core.errors import ForebayError, RequestError

WATCHED_AT_ONCE = 32
"""Jobs of a model that are waited for at once, each on a connection of its own."""


def watch_one(client: Client, job: Job) -> bool:
    """Follow a job to its end; whether it succeeded."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        for event in client.stream(job):
            typer.echo(line_of(event))
            job = event.job or job
    else:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            bar = progress.add_task(job.status, total=None)
            pieces = 0
            for event in client.stream(job):
                pieces += event.kind == "output"
                job = event.job or job
                told = f"{event.status or 'running'}{f', attempt {event.attempt}' if event.attempt > 1 else ''}"
                progress.update(bar, description=told + (f", {pieces} pieces" if pieces else ""))
                if event.progress is not None:
                    progress.update(bar, total=1.0, completed=event.progress)
                if event.kind == "done":
                    progress.update(bar, total=1.0, completed=1.0 if job.status == "succeeded" else None)
    _tell_error(job)
    return job.status == "succeeded"


def line_of(event: JobEvent) -> str:
    """An event as one line."""
    if event.kind == "progress":
        return f"progress {event.progress or 0.0:.0%}"
    if event.kind == "output":
        return f"output {msgspec.json.encode(event.output).decode()}"
    attempt = f" attempt {event.attempt}" if event.attempt else ""
    return f"{event.status}{attempt}"


def watch_many(url: str, api_key: str | None, model: str) -> bool:
    """Follow all jobs of a model until none is left that has not ended; whether all of them succeeded."""
    console = Console(highlight=False, markup=False)
    counts: Counter[str] = Counter()
    if not console.is_terminal:

        def tell(job: Job) -> None:
            typer.echo(f"{job.id} {job.status}")
            _tell_error(job)

        asyncio.run(_follow_all(url, api_key, model, counts, lambda new: typer.echo(f"watching {new} jobs"), tell))
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task(model, total=0)

            def expect(new: int) -> None:
                progress.update(bar, total=new + counts.total())

            def advance(job: Job) -> None:
                progress.update(bar, description=f"{model}: {_counted(counts)}", completed=counts.total())

            asyncio.run(_follow_all(url, api_key, model, counts, expect, advance))
    typer.echo(_counted(counts) or "no jobs to watch")
    return set(counts) <= {"succeeded"}


async def _follow_all(
    url: str,
    api_key: str | None,
    model: str,
    counts: Counter[str],
    expect: Callable[[int], None],
    tell: Callable[[Job], None],
) -> None:
    """Calls `expect` with how many more jobs are followed, and `tell` with each that has ended."""
    known: set[str] = set()
    async with AsyncClient(url, api_key=api_key) as client:
        while waiting := await _unfinished(client, model, known):
            expect(len(waiting))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(WATCHED_AT_ONCE, len(waiting))):
                        group.create_task(_follow(client, waiting, counts, tell))
            except* ForebayError as errors:
                raise _first(errors) from None


async def _follow(client: AsyncClient, waiting: deque[Job], counts: Counter[str], tell: Callable[[Job], None]) -> None:
    """One after the other, the oldest first."""
    while waiting:
        job = waiting.pop()
        try:
            job = await client.ended(job)
        except RequestError as error:
            if error.code not in ("job_not_found", "job_gone"):
                raise
            counts["forgotten"] += 1
            continue
        counts[job.status] += 1
        tell(job)


async def _unfinished(client: AsyncClient, model: str, known: set[str]) -> deque[Job]:
    """The jobs that have not ended and are not known yet, the newest first; they are known from now on."""
    found: deque[Job] = deque()
    for status in ("queued", "running"):
        async for job in client.jobs(model=model, status=status):
            if job.id not in known:
                known.add(job.id)
                found.append(job)
    return found


def _first(errors: BaseExceptionGroup[ForebayError]) -> ForebayError:
    found = errors.exceptions[0]
    return found if isinstance(found, ForebayError) else _first(found)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def _tell_error(job: Job) -> None:
    if job.error is not None:
        message = f"{job.id} {job.status}: {job.error.code}: {' '.join(job.error.message.split())}"
        typer.secho(message, fg=typer.colors.RED, err=True)
