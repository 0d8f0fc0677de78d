"""`forebay serve`: the composition root of one machine. Settings, engines and the web tier meet here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.flags import GivenSettings, takes_settings
from forebay.core.settings_sources import LoadedSettings

if TYPE_CHECKING:
    from forebay.repository.catalog import Catalog


@takes_settings
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="An .onnx file, a Python model as file.py:Class, or a repository: a folder of NAME/VERSION/.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Serve the one MODEL under this name instead of its own.")
    ] = None,
    *,
    given: GivenSettings,
) -> None:
    """Serve models over HTTP (Open Inference Protocol v2), each batched by deadline.

    Examples:

      forebay serve mlp.onnx

      forebay serve module.py:Class mlp.onnx --port 9000

      forebay serve mlp.onnx --set mlp.instances=1 --set mlp.slo_ms=100

      forebay serve models/ --watch

      curl localhost:8000/v2/models/mlp/infer -d '{"input": {"x": [0.1, 0.2]}}'
    """
    from forebay.repository.catalog import Catalog

    loaded = given.load(os.environ)
    run(loaded, Catalog.open(models or [], name))


def run(loaded: LoadedSettings, catalog: Catalog) -> None:
    """Serve until told to stop. Raises `SetupError` where the start fails."""
    from forebay.api.auth import Gate, Keys, Quota, check_bind, control_refusal
    from forebay.api.server import Web
    from forebay.api.site import Site
    from forebay.repository.plans import planner
    from forebay.telemetry.logs import start_logging

    # Settings are read once more when a model is loaded, and when a Python model's class attributes are known.
    for source in catalog.named:
        loaded.model(source.name, {}, source.sidecar)
    loaded.check_models(catalog.first)
    server = loaded.settings.server
    start_logging(loaded.settings.log)
    keys = Keys.load(server.api_keys, loaded.api_key_lines)
    check_bind(server.host, keys, server.insecure_no_auth)
    loop_factory = _loop_factory()

    async def main() -> None:
        from time import monotonic

        gate = Gate(keys, Quota(server.requests_per_s, monotonic))
        await Web(Site(server, gate, catalog, planner(loaded), control_refusal(server, keys))).serve()

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
