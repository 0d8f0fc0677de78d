"""The engines that serve, by model and version: started while the old one serves, swapped, drained, closed.

Everything runs on one event loop; what reads files runs in a thread. Operations on one model run one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from forebay.core.errors import AdmissionError, ForebayError, RequestError, SetupError
from forebay.engine.cores import Cores
from forebay.engine.engine import Engine
from forebay.engine.sizing import Finding
from forebay.models.repository import Stamp, VersionPolicy, look
from forebay.repository.catalog import Catalog, Offer
from forebay.repository.memory import MemoryLimit
from forebay.repository.on_demand import OnDemand, Parked
from forebay.repository.plans import PlanOf
from forebay.repository.starts import Starts
from forebay.repository.states import NOT_CHOSEN, UNLOADED, Asked, Held, Known, Serving, not_ready, told, why_not_loaded
from forebay.repository.tuning import Tuner
from forebay.request_log.logs import RequestLogs
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import Metrics

log = logging.getLogger("forebay.repository")

HELD_LOOK_S = 0.02
"""How often it is looked whether a request still arrives for an engine that has been replaced."""


class Registry:
    """Loads, reloads and unloads models. `load` and `unload` are safe to call at any time, from several places."""

    def __init__(
        self,
        catalog: Catalog,
        plan_of: PlanOf,
        serving: Serving,
        metrics: Metrics,
        cores: Cores | None = None,
        memory_limit_bytes: int | None = None,
        logs: RequestLogs | None = None,
    ) -> None:
        """cores: what its engines share by weight; None: the operating system sees to that. memory_limit_bytes: of all
        models; None: no limit. logs: where answered requests are written down; who gives them closes them."""
        self._catalog = catalog
        self._plan_of = plan_of
        self._serving = serving
        self._metrics = metrics
        self._models: dict[str, dict[int, Held]] = {}
        self._policies: dict[str, VersionPolicy] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._operations: set[asyncio.Task[None]] = set()
        self._endings: dict[asyncio.Task[None], Engine] = {}
        self._asked: dict[str, Asked] = {}
        self.on_demand = OnDemand(self.load, self._chosen)
        self._memory: MemoryLimit | None = None
        if memory_limit_bytes is not None:
            self._memory = MemoryLimit(
                memory_limit_bytes,
                lambda: [*self.engines, *self._endings.values()],
                lambda: list(self._endings),
                self._park,
                self._is_busy,
            )
        self._starts = Starts(cores, self._memory, logs or RequestLogs())
        self._draining = False
        self._started_all = False
        free_bytes = self._memory.free_bytes if self._memory is not None else None
        self._tuner = Tuner(self._resize, lambda: self.engines, self._is_loading, free_bytes)
        self.on_ended: Callable[[], object] = bool
        """Called once an engine has ended."""

    @property
    def engines(self) -> list[Engine]:
        """Those that serve, by name and version."""
        return [held.engine for _, _, held in self._all() if held.engine is not None]

    def _all(self) -> list[tuple[str, int, Held]]:
        return [
            (name, version, held)
            for name, versions in sorted(self._models.items())
            for version, held in sorted(versions.items())
        ]

    # -- operations ---------------------------------------------------------------------------------------------------

    def _is_loading(self) -> bool:
        return not self._started_all or any(lock.locked() for lock in self._locks.values())

    def _is_busy(self, name: str) -> bool:
        lock = self._locks.get(name)
        return lock is not None and lock.locked()

    async def start(self) -> None:
        """Load what is there, one after the other: models measured at the same time would measure each other.

        Raises `SetupError` where a model that was named by itself fails. One of a repository that fails is logged, and
        its reason stands in the index.
        """
        if self._memory is not None:
            self._memory.unloads = False
        for name in self._catalog.first:
            try:
                await self.load(name)
            except (SetupError, RequestError) as error:
                if self._catalog.is_named(name):
                    raise
                log.error("%s", error.message, extra=fields(model=name, code=error.code))
            except AdmissionError as error:
                if self._draining:
                    raise
                log.warning("%s; the first request for it loads it", error.message, extra=fields(model=name))
        if self._memory is not None:
            self._memory.unloads = True
        self._started_all = True

    async def load(self, name: str, asked: Asked | None = None) -> None:
        """Load a model, or bring it up to date; returns when it serves. Unchanged files are not loaded again.

        The engine in service goes on until the new one is warm, and stays where the new one fails.
        Raises `RequestError` (model_not_found), `SetupError` (config_error, model_load_error, memory_limit),
        `AdmissionError` (draining; model_not_ready where there is no room in memory).
        """
        await self._known(name)
        await self._operate(self._load(name, asked or Asked()))

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that were let in are answered. Returns as soon as no new one is let in.

        A model that is not loaded stays so. Raises `RequestError` (model_not_found), `AdmissionError` (draining).
        """
        await self._known(name)
        await self._operate(self._unload(name))

    async def _operate(self, operation: Any) -> None:
        """Runs an operation to its end, whether or not the caller waits for that; `drain` cancels it."""
        if self._draining:
            operation.close()
            raise _stopping()
        running: asyncio.Task[None] = asyncio.ensure_future(operation)
        self._operations.add(running)
        running.add_done_callback(self._operations.discard)
        await asyncio.wait([running])
        if running.cancelled():
            raise _stopping()
        running.result()

    async def _known(self, name: str) -> None:
        """So that what strangers ask for leaves no lock behind."""
        if name not in self._models:
            await self._find(name)

    async def _load(self, name: str, asked: Asked) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            offer = await self._find(name)
            if offer.problem:
                for held in self._models[name].values():
                    held.reason = offer.problem
                raise SetupError(f"model {name}: {offer.problem}")
            policy = asked.policy or offer.policy
            # The latest first: requests without a version must not be given an older one meanwhile.
            wanted = sorted(policy.choose(offer.versions), reverse=True)
            try:
                errors = [error for version in wanted if (error := await self._bring_up(offer, version, asked))]
                if errors:
                    raise errors[0]
            except Exception:
                if any(held.engine for held in self._models[name].values()):
                    self.on_demand.forget(name)  # another version serves, and must not wait for this one
                raise
            for version, held in self._models[name].items():
                if version not in wanted:
                    self._let_go(name, version, held, NOT_CHOSEN)
            self._policies[name], self._asked[name] = policy, asked
            self.on_demand.forget(name)

    async def _unload(self, name: str) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            self.on_demand.forget(name)
            for version, held in self._models.get(name, {}).items():
                self._let_go(name, version, held, UNLOADED)

    def _park(self, name: str, reason: str) -> list[asyncio.Task[None]]:
        """Unload a model that is not in use, to be loaded again when it is asked for; its memory is given back by the
        end of these. None where it has come into use, or has gone, since it was chosen."""
        versions = self._models.get(name, {})
        engines = [held.engine for held in versions.values() if held.engine is not None]
        if self._is_busy(name) or not engines:
            return []
        self.on_demand.park(name, Parked.of(engines, self._asked.get(name, Asked())))
        for version, held in versions.items():
            self._let_go(name, version, held, reason)
        return [task for task, engine in self._endings.items() if engine in engines]

    async def _chosen(self, name: str, asked: Asked) -> list[str]:
        """The versions that a load would bring up; none where nothing of it can be served."""
        offer = await self._find(name)
        return [] if offer.problem else [str(one) for one in (asked.policy or offer.policy).choose(offer.versions)]

    async def _find(self, name: str) -> Offer:
        offer = await asyncio.to_thread(self._catalog.find, name)
        if offer is None:
            gone = f"there is no model {name!r} in the repository"
            for held in self._models.get(name, {}).values():
                if held.engine is not None:
                    held.reason = gone
            raise RequestError(gone, code="model_not_found")
        self._see(offer)
        return offer

    def _see(self, offer: Offer) -> None:
        """Versions that have appeared are known from now on; those that are gone and not in use are forgotten."""
        known = self._models.setdefault(offer.name, {})
        for version in offer.versions:
            known.setdefault(version, Held())
        for version, held in list(known.items()):
            if version not in offer.versions and not (held.engine or held.ending or held.state == "LOADING"):
                del known[version]

    async def _bring_up(self, offer: Offer, version: int, asked: Asked) -> ForebayError | None:
        """One version, up to date; returns what went wrong."""
        held = self._models[offer.name].setdefault(version, Held())
        if held.engine is None:
            held.state, held.reason = "LOADING", "loading"
        try:
            files = await asyncio.to_thread(offer.files, version)
            stamp, digest = await asyncio.to_thread(look, files)
            fingerprint = f"{digest} {msgspec.json.encode(asked.overrides, order='sorted').decode()}"
            loaded = held.engine if held.fingerprint == fingerprint else None
            if loaded is not None and loaded.state == "ready" and await asyncio.to_thread(loaded.plan.reads_the_same):
                held.reason = ""
                return None
            async with self._memory.loading() if self._memory is not None else contextlib.nullcontext():
                engine = await self._started(offer, version, asked, files, stamp)
                self._put(held, engine, fingerprint)
        except BaseException as error:
            held.reason = error.message if isinstance(error, ForebayError) else f"{type(error).__name__}: {error}"
            if held.engine is None:
                held.state = "UNAVAILABLE"
            else:
                log.warning(
                    "the load of %s version %d failed, what was loaded stays: %s",
                    *(offer.name, version, held.reason),
                    extra=fields(model=offer.name, version=str(version)),
                )
            if isinstance(error, SetupError):
                return error
            raise
        return None

    async def _started(self, offer: Offer, version: int, asked: Asked, files: list[Path], stamp: Stamp) -> Engine:
        source = await asyncio.to_thread(offer.source, version)
        engine = Engine(self._plan_of(source, asked.overrides))
        try:
            await self._starts.start(engine, files, stamp)
        except AdmissionError:
            if not any(held.engine for held in self._models[offer.name].values()):
                self.on_demand.park(offer.name, Parked.of([engine], asked))
            raise
        return engine

    async def _resize(self, engine: Engine, found: Finding) -> None:
        """Put an engine with as many instances and threads as were found best in an engine's place, if it still has it.

        Raises `SetupError`, `AdmissionError` (draining).
        """
        await self._operate(self._put_sized(engine, found))

    async def _put_sized(self, engine: Engine, found: Finding) -> None:
        async with self._locks.setdefault(engine.name, asyncio.Lock()):
            held = self._models.get(engine.name, {}).get(int(engine.version))
            if held is None or held.engine is not engine:
                return
            async with self._memory.loading() if self._memory is not None else contextlib.nullcontext():
                sized = await self._starts.sized(engine, found)
                sized.goes_on_for(engine)
                self._put(held, sized, held.fingerprint)

    # -- in and out of service ----------------------------------------------------------------------------------------

    def _put(self, held: Held, engine: Engine, fingerprint: str) -> None:
        """In one turn of the loop: before it requests go to the old engine, after it to the new one."""
        old = held.engine
        held.engine, held.fingerprint = engine, fingerprint
        held.state, held.reason = "READY", ""
        for before in (held.ending, old):
            if before is not None:
                # Two engines of one version must not be exported twice.
                self._metrics.remove(before.metrics)
                before.succeeded_by(engine)
        held.ending = None
        self._metrics.add(engine.metrics)
        self._serving.publish(engine)
        self._tuner.notice(engine)
        if old is not None:
            self._end(old, None, "a newer load of it has taken its place")

    def _let_go(self, name: str, version: int, held: Held, reason: str) -> None:
        engine = held.engine
        if engine is None:
            if held.reason == UNLOADED:
                held.reason = reason
            return
        self._serving.retract(engine)
        held.engine, held.fingerprint, held.ending = None, "", engine
        held.state, held.reason = "UNLOADING", "requests that were let in are answered"
        log.info("%s version %d is unloaded", name, version, extra=fields(model=name, version=str(version)))
        self._end(engine, held, reason)

    def _end(self, engine: Engine, held: Held | None, reason: str) -> None:
        self._tuner.drop(engine)
        ending = asyncio.ensure_future(self._finish(engine, held, reason))
        self._endings[ending] = engine
        ending.add_done_callback(self._ended)

    def _ended(self, ending: asyncio.Task[None]) -> None:
        engine = self._endings.pop(ending, None)
        asyncio.get_running_loop().call_soon(self.on_ended)
        if not ending.cancelled() and ending.exception() is not None:
            name = engine.name if engine is not None else ""
            log.error("an engine did not end well", exc_info=ending.exception(), extra=fields(model=name))

    async def _finish(self, engine: Engine, held: Held | None, reason: str) -> None:
        """Let an engine that gets no new requests answer those that it has, then end its processes."""
        while self._serving.holds(engine):  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(HELD_LOOK_S)
        engine.drain(f"this version was unloaded: {reason}")
        await self._starts.end(engine, None)
        if held is not None and held.ending is engine:
            held.ending = None
            self._metrics.remove(engine.metrics)
            if held.state == "UNLOADING":
                held.state, held.reason = "UNAVAILABLE", reason

    # -- what is told -------------------------------------------------------------------------------------------------

    async def index(self) -> list[Known]:
        """Every version of every model, loaded or not, with its state; models that have none stand there too."""
        offers = await asyncio.to_thread(self._catalog.all)
        for offer in offers.values():
            self._see(offer)
        for name in self._models.keys() - offers.keys():
            self._forget(name)
        found = [Known(name, str(version), *told(held, offers.get(name))) for name, version, held in self._all()]
        empty = [offer for offer in offers.values() if not self._models.get(offer.name)]
        return sorted([*found, *(Known(offer.name, "", "UNAVAILABLE", offer.problem) for offer in empty)])

    def _forget(self, name: str) -> None:
        """A model whose folder is gone, once nothing of it is in use."""
        if not self._is_busy(name) and not any(held.engine or held.ending for held in self._models[name].values()):
            for table in (self._models, self._locks, self._policies):
                table.pop(name, None)

    def policy(self, name: str) -> VersionPolicy | None:
        """By which versions of a model were chosen when it was loaded."""
        return self._policies.get(name)

    def why_not_loaded(self, name: str, version: str | None) -> str:
        """Of a model, or of one version, that is known here and does not serve; empty for any other."""
        return why_not_loaded(self._models.get(name, {}), version)

    def not_ready(self) -> list[str]:
        """Why requests are not welcome: each model that serves and cannot answer now. A failed load is no reason."""
        return not_ready(self.engines)

    # -- the end ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new requests, give up loads that run; what is admitted still runs."""
        # Once only: another cancellation would disturb the first one's clearing up.
        for operation in () if self._draining else self._operations:
            operation.cancel()
        self._draining = True
        self._tuner.stop()
        for engine in (*self.engines, *self._endings.values()):
            engine.drain()

    async def close(self, grace_s: float) -> None:
        """Wait for the admitted, at most so long, then end every process."""
        self.drain()
        await self._tuner.close()
        if self._operations:
            await asyncio.wait(self._operations)
        endings = dict(self._endings)
        waits = asyncio.wait(endings, timeout=grace_s) if endings else asyncio.sleep(0)
        await asyncio.gather(waits, *(self._starts.end(engine, grace_s) for engine in self.engines))
        for ending, engine in endings.items():
            if not ending.done():
                ending.cancel()
                await self._starts.end(engine, 0.0)


def _stopping() -> AdmissionError:
    return AdmissionError("the server is shutting down", code="draining")
