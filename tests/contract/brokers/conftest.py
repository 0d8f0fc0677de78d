"""Each broker in turn, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

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

EACH_TIME = {
    "sqs": set[str](),
    "sqs-fifo": set[str](),
    "kafka": {"test_an_ack_behind_one_that_is_missing_counts_unless_positions_do"},
    "kafka-packs": {
        "test_a_broker_says_what_its_kind_can_do",
        "test_messages_come_as_they_were_published",
        "test_what_is_not_acked_comes_to_others",
        "test_parts_that_change_hands_begin_where_all_before_is_acked",
    },
}
"""Of kinds that take long, the tests that are run each time; the others are run with the long ones only. A group of
Kafka's takes seconds to meet, so its tests here are of what only it has: positions, and parts that change hands."""
OPENERS = {**IMPLEMENTATIONS, "own-broker": own_broker}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture(params=sorted([*OPENERS, *KINDS, *RABBITS, *SQS_KINDS, *KAFKAS]))
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most tests of kinds that take long are run at full length only."""
    for item in items:
        call = getattr(item, "callspec", None)
        kind = call.params.get("kind") if call is not None else None
        if kind in EACH_TIME and getattr(item, "originalname", "") not in EACH_TIME[kind]:
            item.add_marker("full")


@pytest.fixture
async def broker(service: Service) -> Broker:
    return await service.connect()


@pytest.fixture
def can(kind: str) -> Capabilities:
    """What this kind of broker can do."""
    return CAPABILITIES["redis-streams" if kind in KINDS else kind]
