"""The steps of an inference request that the express lane and the ASGI endpoints share; no I/O in here.

Head -> `Inference.admit` -> `Endpoint.read` -> `engine.submit` -> `Endpoint.answer`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from urllib.parse import quote

from forebay.api.auth import Gate
from forebay.api.elements import show
from forebay.api.endpoint import Endpoint
from forebay.api.wakes import Wakes
from forebay.cache.answer_cache import AnswerCache
from forebay.core.errors import AdmissionError, RequestError
from forebay.core.settings import ServerSettings
from forebay.engine.client import EngineClient

LEAVING = "forebay.leaving"
"""The key of a `Leaving` in an ASGI scope. Who provides it limits the time of bodies too, so that an endpoint needs
neither a task to see a client leave nor a timer."""
DROP = "forebay.drop"
"""The key, in the scope of a WebSocket, of a function of a close code and a reason that ends the connection of a client
that does not read. Whoever does not provide it sees to such clients himself."""


class Leaving:
    """The end of a connection: whether the client has left, and who is to be told when it does."""

    __slots__ = ("happened", "tell")

    def __init__(self) -> None:
        self.happened = False
        self.tell: set[Callable[[], None]] = set()

    def happen(self) -> None:
        """The client has left."""
        self.happened = True
        for call in list(self.tell):
            call()


def _order(version: str) -> tuple[int, str]:
    return int(version) if version.isdecimal() else 0, version


class Inference:
    """All served models behind one gate; made once, shared by the express lane and the ASGI app.

    Versions come and go (`publish`, `retract`). A request keeps the endpoint that it was let in for.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineClient],
        server: ServerSettings,
        gate: Gate,
        cache: AnswerCache | None = None,
        *,
        seeks_near: bool = False,
    ) -> None:
        """`cache`: where answers are kept, for models that want that; None: nowhere. `seeks_near`: texts may get the
        answers to near ones, for models that want that (`api/semantic.py`)."""
        self.engines: dict[str, EngineClient] = {}
        """Of each model the latest version that is served, by the model's name."""
        self.server = server
        self.gate = gate
        self.cache = cache
        self._seeks_near = seeks_near
        self.guarded = gate.guards
        self.compress_from_bytes = server.compress_from_bytes or sys.maxsize
        self._endpoints: dict[str, Endpoint] = {}
        self._versions: dict[str, dict[str, Endpoint]] = {}
        self._replaced: list[Endpoint] = []
        self.by_path: dict[bytes, Endpoint] = {}
        """The request targets of inference, exactly as a plain client sends them, to their models. Always this object:
        the lane looks into it for each request."""
        self.jobs_by_path: dict[bytes, Endpoint] = {}
        """The same for submitting jobs."""
        self.on_route: list[Callable[[bytes, Endpoint | None], None]] = []
        """Called for each change of `by_path`; None: the target is gone."""
        self.lookers: list[Callable[[Endpoint], bool]] = []
        """Each tells whether it has a request that was let in for an endpoint and is not submitted yet."""
        self.not_started = ""
        """Why there is no model yet; empty once there has been a start."""
        self.jobs_wait = False
        """Whether jobs are taken for a model that cannot run now, since it runs elsewhere."""
        self.on_demand: Wakes | None = None
        """Models that were unloaded to make room; None: none ever is."""
        self.why_not_loaded: Callable[[str, str | None], str] = lambda _model, _version: ""
        """Why a model, or a version, that is known does not serve; empty: it is not known."""
        for engine in engines.values():
            self.publish(engine)

    def publish(self, engine: EngineClient) -> None:
        """From now on requests for its model and version go to this engine, in place of any other."""
        versions = self._versions.setdefault(engine.name, {})
        if engine.version in versions:
            self._replaced.append(versions[engine.version])
        versions[engine.version] = Endpoint(engine, self.server.max_json_depth, self.cache, seeks_near=self._seeks_near)
        self._route(engine.name, engine.version)

    def retract(self, engine: EngineClient) -> None:
        """No new request goes to this engine."""
        endpoint = self._versions.get(engine.name, {}).get(engine.version)
        if endpoint is not None and endpoint.published is engine:
            del self._versions[engine.name][engine.version]
            self._replaced.append(endpoint)
            self._route(engine.name, engine.version)

    def _route(self, name: str, version: str) -> None:
        """Brings the targets of one version, and of the model without a version, up to date."""
        versions = self._versions[name]
        latest = versions[max(versions, key=_order)] if versions else None
        if latest is not None:
            self._endpoints[name], self.engines[name] = latest, latest.engine
        else:
            for table in (self._versions, self._endpoints, self.engines):
                del table[name]
        path = f"/v2/models/{quote(name, safe='')}"
        jobs_path = f"/v1/models/{quote(name, safe='')}/jobs".encode()
        if latest is not None:
            self.jobs_by_path[jobs_path] = latest
        else:
            self.jobs_by_path.pop(jobs_path, None)
        ways = {f"{path}/infer": latest, f"{path}/versions/{quote(version, safe='')}/infer": versions.get(version)}
        for way, endpoint in ways.items():
            if endpoint is not None:
                self.by_path[way.encode()] = endpoint
            else:
                self.by_path.pop(way.encode(), None)
            for tell in self.on_route:
                tell(way.encode(), endpoint)

    def holds(self, engine: EngineClient) -> bool:
        """Whether a request was let in for this engine, which was replaced or retracted, and is not submitted yet."""
        for endpoint in self._replaced:
            if endpoint.published is engine:
                if endpoint.arriving or endpoint.sought or any(look(endpoint) for look in self.lookers):
                    return True
                self._replaced.remove(endpoint)
                break
        return False

    def hasten(self) -> None:
        """Engines are about to take nothing more: what other processes are asked for goes there while it still may."""
        for endpoint in self.endpoints:
            if endpoint.cached is not None:
                endpoint.cached.hasten()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Of all versions of all models that are served."""
        return [endpoint for versions in self._versions.values() for endpoint in versions.values()]

    def versions(self, model: str) -> list[EngineClient]:
        """The engines of a model that is served, the smallest version first; none for one that is not."""
        found = self._versions.get(model, {})
        return [found[version].engine for version in sorted(found, key=_order)]

    async def awake(self, model: str, version: str | None) -> None:
        """Between `gate.enter` and `find`, on ways that can wait: loads a model again that was unloaded to make room.

        Raises `AdmissionError` (model_not_ready), `RequestError` (model_not_found).
        """
        if self.on_demand is not None and self.on_demand.covers(model):
            await self.on_demand.wake(model, version)

    def find(self, model: str, version: str | None = None) -> Endpoint:
        """The endpoint of a model. Raises `RequestError` (model_not_found) for an unknown model or version, and
        `AdmissionError` (model_not_ready) before the start."""
        endpoint = self._endpoints.get(model)
        if endpoint is None:
            if self.not_started:
                raise AdmissionError(self.not_started, code="model_not_ready")
            if self.on_demand is not None and self.on_demand.covers(model):
                raise self.on_demand.refusal(model)
            if reason := self.why_not_loaded(model, version) or self.why_not_loaded(model, None):
                raise RequestError(f"model {show(model)} is not loaded: {reason}", code="model_not_found")
            raise RequestError(f"there is no model {show(model)}", code="model_not_found")
        if version is None or version == endpoint.engine.version:
            return endpoint
        other = self._versions[model].get(version)
        if other is None:
            reason = self.why_not_loaded(model, version)
            raise RequestError(
                f"model {show(model)} has no version {show(version)}{f' loaded: {reason}' if reason else ''}; it has "
                + ", ".join(engine.version for engine in self.versions(model)),
                code="model_not_found",
            )
        return other

    def admit_job(self, endpoint: Endpoint, content_length_bytes: int | None = None) -> None:
        """`admit`, for a job."""
        if not self.jobs_wait:
            self.admit(endpoint, content_length_bytes)
        elif content_length_bytes is not None:
            self.check_length(content_length_bytes)

    def admit(self, endpoint: Endpoint, content_length_bytes: int | None = None) -> None:
        """What can be refused before the body is read; `gate.enter` comes before it.

        Raises `RequestError` (payload_too_large) or `AdmissionError` (model_not_ready, draining).
        """
        if content_length_bytes is not None:
            self.check_length(content_length_bytes)
        engine = endpoint.engine
        if engine.state == "ready":
            return
        if engine.state == "draining":
            raise AdmissionError(engine.reason or "the server is shutting down", code="draining")
        reason = f": {engine.reason}" if engine.reason else ""
        raise AdmissionError(f"model {show(engine.name)} is {engine.state}{reason}", code="model_not_ready")

    def check_length(self, length_bytes: int) -> None:
        """Raises `RequestError` (payload_too_large) for a body of so many bytes, where that is beyond the limit."""
        if length_bytes > self.server.max_body_bytes:
            raise RequestError(
                f"the body is larger than {self.server.max_body_bytes} bytes (server.max_body_bytes)",
                code="payload_too_large",
            )
