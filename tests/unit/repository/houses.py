"""A registry of tiny models, each instance of which holds one MiB as far as the registry can see."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.started import eventually, plan_of

from forebay.engine.engine import Engine
from forebay.engine.setup import Plan
from forebay.models.source import ModelSource
from forebay.repository import memory, registry
from forebay.repository.catalog import Catalog
from forebay.repository.memory import MemoryLimit
from forebay.repository.registry import Registry
from forebay.repository.states import Held
from forebay.telemetry.metrics import Metrics

MODEL = """
import forebay


class Twice(forebay.Model):
    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}

    def predict(self, x):
        return x * 2
"""
MIB = 1 << 20
WAIT_S = 0.1
"""How long a load waits for others in these tests."""


class Street:
    """Where requests come from."""

    def __init__(self) -> None:
        self.published: dict[tuple[str, str], Engine] = {}
        self.arriving: set[str] = set()
        """Models for which a request is on its way in."""

    def publish(self, engine: Engine) -> None:
        self.published[engine.name, engine.version] = engine

    def retract(self, engine: Engine) -> None:
        del self.published[engine.name, engine.version]

    def holds(self, engine: Engine) -> bool:
        return engine.name in self.arriving


class Scales:
    """What processes hold. While it is `stuck`, a look does not return."""

    def __init__(self) -> None:
        self._free = threading.Event()
        self._free.set()
        self.looks = 0

    def measure(self, pids: Iterable[int]) -> int:
        self.looks += 1
        assert self._free.wait(30)
        return len(list(pids)) * MIB

    def stick(self) -> None:
        self._free.clear()

    def free(self) -> None:
        self._free.set()


class House:
    """A repository on disk and a registry over it. `settings`: of each model."""

    def __init__(self, folder: Path, limit: int, settings: Mapping[str, object]) -> None:
        self.folder, self._limit, self._settings = folder / "models", limit, settings
        self._data_dir = folder
        self.folder.mkdir()
        self.street, self.scales = Street(), Scales()

    def put(self, name: str, *versions: int, policy: str = "", more: str = "") -> None:
        """Write versions of a model, or write them anew."""
        for version in versions:
            file = self.folder / name / str(version) / "model.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{MODEL}\n# {more}\n")
        if policy:
            (self.folder / name / "model.toml").write_text(f"version_policy = {policy}\n")

    def open(self) -> Registry:
        """The registry."""
        catalog = Catalog.open([str(self.folder)], None)
        self.registry = Registry(catalog, self._plan, self.street, Metrics(), None, self._limit * MIB)
        return self.registry

    def _plan(self, source: ModelSource, overrides: Mapping[str, object]) -> Plan:
        plan = plan_of(source, self._data_dir, **{**self._settings, **overrides})
        plan.cores = 1
        return plan

    async def held_up(self, load: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Begin a load and stop it where it has chosen whom to unload; `scales.free` lets it go on."""
        self.scales.stick()
        before = self.scales.looks
        running = asyncio.ensure_future(load)
        await eventually(lambda: self.scales.looks > before)
        return running

    def held(self, name: str, version: int) -> Held:
        """What the registry knows of a version."""
        return self.registry._models[name][version]

    @property
    def served(self) -> list[str]:
        """What answers now."""
        return sorted(f"{name}/{version}" for name, version in self.street.published)


Houses = Callable[..., House]


@pytest.fixture
async def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Houses]:
    """Builds one; its registry is closed at the end."""
    monkeypatch.setattr(memory, "IDLE_WAIT_S", WAIT_S)
    built: list[House] = []

    def build(limit: int, **settings: object) -> House:
        house = House(tmp_path, limit, settings)
        monkeypatch.setattr(registry, "MemoryLimit", functools.partial(MemoryLimit, measure=house.scales.measure))
        built.append(house)
        return house

    yield build
    for house in built:
        house.scales.free()
        house.street.arriving.clear()
        await house.registry.close(0.0)


@asynccontextmanager
async def within_bound() -> AsyncIterator[None]:
    """What is in here ends; generous, since it is not a measurement."""
    async with asyncio.timeout(20):
        yield
