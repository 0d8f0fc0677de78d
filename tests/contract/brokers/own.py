"""The broker of docs/own-broker.md under the contract, with a clock that only the test moves."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from examples.own_broker.forebay_sqlite import SqliteBroker
from tests.contract.brokers.connections import Service

from forebay.brokers.port import Broker
from forebay.testing import FakeClock


@contextlib.asynccontextmanager
async def own_broker() -> AsyncIterator[Service]:
    """An empty one."""
    clock = FakeClock()
    connections: list[SqliteBroker] = []
    with tempfile.TemporaryDirectory(prefix="forebay-own-broker-") as folder:
        url = f"sqlite-queue://{Path(folder) / 'jobs.db'}"

        async def connect() -> Broker:
            connections.append(SqliteBroker(url, clock))
            return connections[-1]

        async def pass_s(seconds: float) -> None:
            clock.advance(seconds)

        yield Service(connect, pass_s)
        for connection in connections:
            await connection.close()
