"""Each implementation in turn, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contract.jobs.stores import IMPLEMENTATIONS, Jobs, Store


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with IMPLEMENTATIONS[request.param]() as opened:
        yield opened


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return store.jobs
