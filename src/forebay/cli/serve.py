"""`forebay serve`: the composition root of one machine. Settings, engines and the web tier meet here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.flags import GivenSettings, takes_settings
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.core.settings_sources import LoadedSettings
from forebay.models.source import ModelSource, open_source

if TYPE_CHECKING:
    from forebay.engine.setup import Plan


@takes_settings
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="A model file (.onnx, .ubj, .txt, .skops, ...), or file.py:Class.",
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

      curl localhost:8000/v2/models/mlp/infer -d '{"input": {"x": [0.1, 0.2]}}'
    """
    loaded = given.load(os.environ)
    sources = open_sources(models or [], name)
    run(loaded, sources)


def open_sources(models: Sequence[str], name: str | None) -> list[ModelSource]:
    """The MODEL arguments, opened. Raises `SetupError` for none, two of one name, or a `--name` that is no use."""
    if not models:
        raise SetupError("no model to serve; name at least one: forebay serve model.onnx, or file.py:Class")
    if name is not None and len(models) != 1:
        raise SetupError(f"--name {name} goes with exactly one MODEL, not {len(models)}")
    sources = [open_source(text, name) for text in models]
    seen: dict[str, ModelSource] = {}
    for source in sources:
        if source.name in seen:
            raise SetupError(
                f"two models are called {source.name!r}: {seen[source.name].path} and {source.path}; "
                "rename a file, or serve one of them with --name in a process of its own"
            )
        seen[source.name] = source
    return sources


def run(loaded: LoadedSettings, sources: Sequence[ModelSource]) -> None:
    """Serve until told to stop. Raises `SetupError` where the start fails."""
    from forebay.api.auth import Gate, Keys, Quota, check_bind
    from forebay.api.server import Web
    from forebay.telemetry.logs import start_logging

    # Settings are read once more when a Python model's class attributes are known, in its own process.
    settings = {source.name: loaded.model(source.name, {}, source.sidecar) for source in sources}
    loaded.check_models([source.name for source in sources])
    server = loaded.settings.server
    start_logging(loaded.settings.log)
    keys = Keys.load(server.api_keys, loaded.api_key_lines)
    check_bind(server.host, keys, server.insecure_no_auth)
    loop_factory = _loop_factory()

    async def main() -> None:
        from time import monotonic

        gate = Gate(keys, Quota(server.requests_per_s, monotonic))
        web = Web(server, gate, _plans(loaded, sources, settings))
        await web.serve()

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def _plans(loaded: LoadedSettings, sources: Sequence[ModelSource], settings: dict[str, ModelSettings]) -> list[Plan]:
    from forebay.engine.setup import Plan

    def resolver(source: ModelSource) -> Callable[[dict[str, object]], ModelSettings]:
        return lambda attributes: loaded.model(source.name, attributes, source.sidecar)

    return [
        Plan(
            source=source,
            settings=settings[source.name],
            data_dir=Path(loaded.settings.data_dir),
            shared_memory_bytes=loaded.settings.server.shared_memory_bytes,
            resolve=resolver(source),
        )
        for source in sources
    ]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
