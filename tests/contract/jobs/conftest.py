"""Each implementation in turn, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from tests.contract.jobs import kafka_stores, rabbit_stores
from tests.contract.jobs.redis_servers import Servers
from tests.contract.jobs.redis_stores import SHARDS, redis_store
from tests.contract.jobs.stores import IMPLEMENTATIONS, Jobs, Store


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture(params=sorted([*IMPLEMENTATIONS, *SHARDS, *rabbit_stores.SHARDS, *kafka_stores.KINDS]))
async def store(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Store]:
    kind = request.param
    opening: AbstractAsyncContextManager[Store]
    if kind in rabbit_stores.SHARDS:
        opening = rabbit_stores.brokered_store(servers, kind)
    elif kind in kafka_stores.KINDS:
        opening = kafka_stores.kafka_store(servers, kind)
    else:
        opening = IMPLEMENTATIONS[kind]() if kind in IMPLEMENTATIONS else redis_store(servers, kind)
    async with opening as opened:
        yield opened


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return store.jobs


EACH_TIME = {
    "valkey-sqs": {"test_lease", "test_finish", "test_fleets"},
    "valkey-kafka": {
        "test_any_order",
        "test_a_job_that_was_given_back_is_free_at_once_and_the_attempt_does_not_count",
        "test_workers_side_by_side_never_get_the_same_job",
        "test_another_version_is_left_to_who_knows_it_and_fails_where_nobody_does",
    },
}
"""Files, or tests, that run over these each time: how jobs are carried is what differs there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of random walks over a broker beside the store, which take long, one is enough but at full length."""
    brokered = {*rabbit_stores.SHARDS, *kafka_stores.KINDS}
    for item in items:
        call = getattr(item, "callspec", None)
        if call is None or (store := call.params.get("store")) not in brokered:
            continue
        names = {item.path.stem, getattr(item, "originalname", "")}
        if call.params.get("seed", 0) > 0 or not names & EACH_TIME.get(store, names):
            item.add_marker("full")
