"""`forebay worker`: the composition root of a process that runs models for web processes."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from forebay.cli.flags import GivenSettings, takes_settings


@takes_settings
def worker(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Models, as for serve.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Serve the one MODEL under this name instead of its own.")
    ] = None,
    *,
    given: GivenSettings,
) -> None:
    """Run models for web processes (forebay web): jobs, and requests that wait for their answer, from one store.

    Any number of workers, on any host; a web process finds out by itself what they have. It does not listen, unless
    --port is given (its default does not count): then for /healthz, /readyz and /metrics only. SIGTERM lets it finish
    what it runs.

    Examples:

      forebay worker mlp.onnx --store redis://10.0.0.5:6379

      forebay worker models/ --watch --store redis://10.0.0.5:6379 --port 9001 --host 0.0.0.0 --insecure-no-auth
    """
    from forebay.embedding.composition import run_worker
    from forebay.repository.catalog import Catalog

    loaded = given.load(os.environ)
    run_worker(loaded, Catalog.open(models or [], name), listens=given.flags.get("server.port") is not None)
