"""The models that the examples build, made once for these tests in a folder of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from examples.minilm import build as minilm_build
from examples.minilm.minilm import MiniLM

from forebay.core.tensors import Array


@pytest.fixture(scope="session")
def minilm_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: it would keep the 90 MB of the last three runs.
    with tempfile.TemporaryDirectory() as folder:
        minilm_build.build(Path(folder))
        yield Path(folder)


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> MiniLM:
    model = MiniLM()
    model.folder = minilm_folder
    model.load("cpu")
    return model


def column(values: list[bytes]) -> Array:
    """BYTES elements as a model gets them: object [rows, 1]."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array
