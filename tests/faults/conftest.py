"""Servers of models that go wrong. Each module has its own, so that a fault's traces stay with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.server import Served, model, quick, serving


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One instance each of `Faulty`, `Hungry` and `Pause`."""
    models = model("faulty.py", "Faulty", "Hungry", "Pause")
    with serving(tmp_path_factory.mktemp("faulty"), *quick(*models)) as served:
        yield served
