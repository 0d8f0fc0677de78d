"""One drain time for everything: what uvicorn has waited, the engines do not wait again."""

from __future__ import annotations

import socket

import pytest
import uvicorn

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.server import Server
from forebay.api.site import Site
from forebay.core.settings import ServerSettings
from forebay.engine.setup import Plan
from forebay.models.source import ModelSource
from forebay.repository.catalog import Catalog
from forebay.repository.registry import Registry
from forebay.testing import FakeClock

DRAIN_S = 8.0


def no_plan(source: ModelSource, overrides: object) -> Plan:
    raise AssertionError("no model is loaded here")


class Recording(Registry):
    """A registry without models that tells how long its engines were given."""

    grace_s: float | None = None

    async def close(self, grace_s: float) -> None:
        self.grace_s = grace_s
        await super().close(grace_s)


@pytest.mark.parametrize(("waited_s", "left_s"), [(DRAIN_S, 0.0), (DRAIN_S + 1.0, 0.0), (3.0, DRAIN_S - 3.0)])
async def test_shutdown_takes_one_drain_time(monkeypatch: pytest.MonkeyPatch, waited_s: float, left_s: float) -> None:
    clock = FakeClock(100.0)
    settings = ServerSettings(drain_timeout_s=DRAIN_S)
    gate = Gate(Keys({}), Quota(None, clock))
    site = Site(settings, gate, Catalog((), ()), no_plan, "", clock)
    site.registry = registry = Recording(Catalog((), ()), no_plan, site.inference, site.metrics)
    server = Server(uvicorn.Config(site.app(), lifespan="off", log_config=None), site)

    async def waits_for_requests(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        assert site.not_ready() == ["the server is shutting down"]
        clock.advance(waited_s)

    monkeypatch.setattr(uvicorn.Server, "shutdown", waits_for_requests)
    await server.shutdown()
    await site.close()
    assert registry.grace_s == left_s
