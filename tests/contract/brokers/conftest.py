"""Each broker in turn, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contract.brokers.connections import CAPABILITIES, IMPLEMENTATIONS, Service

from forebay.brokers.port import Broker, Capabilities


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def service(kind: str) -> AsyncIterator[Service]:
    async with IMPLEMENTATIONS[kind]() as opened:
        yield opened


@pytest.fixture
async def broker(service: Service) -> Broker:
    return await service.connect()


@pytest.fixture
def can(kind: str) -> Capabilities:
    """What this kind of broker can do."""
    return CAPABILITIES[kind]
