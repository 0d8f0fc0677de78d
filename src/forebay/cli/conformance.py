"""`forebay conformance`: what a server of the Open Inference Protocol v2 gets right, and what not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from forebay.conformance.check import Check, Result
from forebay.conformance.report import as_json, failed, markdown, print_report
from forebay.conformance.run import discover, run
from forebay.conformance.send import Sender
from forebay.conformance.suite import AREAS, CHECKS
from forebay.core.errors import SetupError
from forebay.core.header_values import bearer


def conformance(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option(help="The model to use. Default: the only one of the index.")] = None,
    inputs: Annotated[Path | None, typer.Option(help="A valid request (JSON), where made-up inputs do not do.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Areas or checks to run: {', '.join(AREAS)}.")] = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="An extension to check although it is not announced.")
    ] = None,
    unload: Annotated[bool, typer.Option("--unload", help="Also reload and unload the model, if announced.")] = False,
    timeout_s: Annotated[float, typer.Option(help="How long to wait for an answer.")] = 10.0,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all results to this file; - for stdout.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table instead.")] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="FOREBAY_API_KEY", help="Sent as `Authorization: Bearer`.")
    ] = None,
) -> None:
    """Check a server of the Open Inference Protocol v2 over HTTP against the specification.

    Extensions (binary data, statistics, ...) are checked where the server announces them. Nobody else should use the
    model meanwhile: its counts are compared. Exit code 1: a MUST fails.

    Examples:

      forebay conformance http://127.0.0.1:8000

      forebay conformance http://127.0.0.1:8000 --model mlp --only infer --only binary

      forebay conformance http://127.0.0.1:8000 --model iris --inputs request.json --json report.json
    """
    checks = _chosen(only or [])
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise SetupError(f"--timeout-s {timeout_s}: it must be a number above 0")
    quiet = as_markdown or json_ == Path("-")
    console = Console()
    headers = (("Authorization", bearer(api_key)),) if api_key else ()
    with Sender(url, timeout_s, headers) as sender:
        subject = discover(sender, model, _example(inputs), unload)
        subject.extensions |= _known(assume or [])
        results: list[Result] = []
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"checking {subject.model}", total=len(checks))
            for result in run(checks, subject, sender):
                results.append(result)
                progress.advance(bar)
    if json_ is not None:
        document = msgspec.json.format(msgspec.json.encode(as_json(url, subject.model, results)))
        if json_ == Path("-"):
            typer.echo(document.decode())
        else:
            json_.write_bytes(document + b"\n")
    if as_markdown:
        typer.echo(markdown(results), nl=False)
    elif not quiet:
        print_report(console, results)
    if failed(results):
        raise typer.Exit(1)


def _chosen(only: list[str]) -> list[Check]:
    """The checks of these areas, or with these ids. Raises `SetupError` for one that does not exist."""
    unknown = [name for name in only if not any(name in (one.area, one.id) for one in CHECKS)]
    if unknown:
        raise SetupError(f"--only {unknown[0]}: no such area or check; areas are {', '.join(AREAS)}")
    return [one for one in CHECKS if not only or one.area in only or one.id in only]


def _known(extensions: list[str]) -> frozenset[str]:
    """These extensions. Raises `SetupError` for one that no check belongs to."""
    known = {one.extension for one in CHECKS if one.extension}
    for name in extensions:
        if name not in known:
            raise SetupError(f"--assume {name}: no such extension; there are {', '.join(sorted(known))}")
    return frozenset(extensions)


def _example(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(f"--inputs {path}: {error}") from None
