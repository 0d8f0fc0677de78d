"""Each broker in turn, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from tests.contract.brokers.connections import CAPABILITIES, IMPLEMENTATIONS, Service
from tests.contract.brokers.kafka import KINDS as KAFKAS
from tests.contract.brokers.kafka import kafka
from tests.contract.brokers.own import own_broker
from tests.contract.brokers.rabbit import KINDS as RABBITS
from tests.contract.brokers.rabbit import rabbitmq
from tests.contract.brokers.redis_streams import KINDS, redis_streams
from tests.contract.brokers.sqs import KINDS as SQS_KINDS
from tests.contract.brokers.sqs import sqs
from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.port import Broker, Capabilities

AT_LENGTH = {"sqs", "sqs-fifo"}
"""Kinds that are run with the long tests only."""
OPENERS = {**IMPLEMENTATIONS, "own-broker": own_broker}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


def _kinds() -> list[Any]:
    names = sorted([*OPENERS, *KINDS, *RABBITS, *SQS_KINDS, *KAFKAS])
    return [pytest.param(name, marks=[pytest.mark.full] if name in AT_LENGTH else []) for name in names]


@pytest.fixture(params=_kinds())
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def service(kind: str, servers: Servers) -> AsyncIterator[Service]:
    opening: AbstractAsyncContextManager[Service]
    if kind in RABBITS:
        opening = rabbitmq(kind)
    elif kind in SQS_KINDS:
        opening = sqs(kind)
    elif kind in KAFKAS:
        opening = kafka(kind)
    else:
        opening = redis_streams(servers, kind) if kind in KINDS else OPENERS[kind]()
    async with opening as opened:
        yield opened


@pytest.fixture
async def broker(service: Service) -> Broker:
    return await service.connect()


@pytest.fixture
def can(kind: str) -> Capabilities:
    """What this kind of broker can do."""
    return CAPABILITIES["redis-streams" if kind in KINDS else kind]
