"""`forebay serve`: the composition root of one machine. The environment is read here, and nowhere below."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from forebay.cli.flags import GivenSettings, takes_settings


@takes_settings
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="A model file (.onnx, .xml, .pt2, .ubj, .skops, ...), file.py:Class, or a folder of NAME/VERSION/.",
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
    from forebay.embedding.composition import run
    from forebay.repository.catalog import Catalog

    loaded = given.load(os.environ)
    run(loaded, Catalog.open(models or [], name))
