"""One server with every well-behaved model, with the express lane and without, for the tests of what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from examples.mlp import build as mlp_build
from tests.e2e.server import ROOT, Served, model, quick, serving


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mlp.onnx`, built."""
    return mlp_build.build(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="session", params=["auto", pytest.param("off", marks=pytest.mark.full)])
def lane(request: pytest.FixtureRequest) -> str:
    """`--express-lane`: whatever is promised over HTTP holds with the lane and without it. In the short form both are
    held against each other by `test_lane_differential.py`, and without it only what names it itself is run."""
    value: str = request.param
    return value


@pytest.fixture(scope="session")
def house(lane: str, mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of a session share; a test leaves it as it was."""
    models = [
        str(mlp),
        f"{ROOT / 'examples' / 'sleep.py'}:Sleep",
        *model("plain.py", "Echo", "Texts", "Ragged", "Centred", "Settings"),
        *model("faulty.py", "Pause"),
    ]
    with serving(tmp_path_factory.mktemp("house"), *quick(*models), "--express-lane", lane) as served:
        yield served


@pytest.fixture
def client(house: Served) -> Iterator[Any]:
    """A stock client of the protocol."""
    with triton.InferenceServerClient(f"127.0.0.1:{house.port}", concurrency=4) as stock:
        yield stock
