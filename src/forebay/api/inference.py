"""The steps of an inference request that the express lane and the ASGI endpoints share; no I/O in here.

Head -> `Inference.admit` -> `Endpoint.read` -> `engine.submit` -> `Endpoint.answer`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar
from urllib.parse import quote

from forebay.api.auth import Gate
from forebay.api.binary import Body, parse_header_length
from forebay.api.cache_control import told
from forebay.api.decode import BodyDecoder, OnDone
from forebay.api.elements import show
from forebay.api.encode import AnswerEncoder
from forebay.api.generate import GenerateForm
from forebay.api.problems import Answer, problem_of
from forebay.api.recall import Recall
from forebay.api.wakes import Wakes
from forebay.cache.answer_cache import AnswerCache
from forebay.core.errors import AdmissionError, ForebayError, RequestError
from forebay.core.request import Request
from forebay.core.settings import ServerSettings
from forebay.engine.client import EngineClient
from forebay.engine.semantic import SemanticEngine
from forebay.engine.shared_cached import cached_engine
from forebay.telemetry.logs import fields

LEAVING = "forebay.leaving"
"""The key of a `Leaving` in an ASGI scope. Who provides it limits the time of bodies too, so that an endpoint needs
neither a task to see a client leave nor a timer."""
DROP = "forebay.drop"
"""The key, in the scope of a WebSocket, of a function of a close code and a reason that ends the connection of a client
that does not read. Whoever does not provide it sees to such clients himself."""

log = logging.getLogger("forebay.api")
T = TypeVar("T")


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


class Endpoint:
    """One served model with its decoder and encoder."""

    __slots__ = (
        "_decoder",
        "_encoder",
        "_takes_text",
        "arriving",
        "decode",
        "engine",
        "fresh",
        "generate",
        "near",
        "plain",
        "published",
        "recall",
        "whole",
    )

    def __init__(
        self,
        published: EngineClient,
        max_json_depth: int,
        cache: AnswerCache | None = None,
        *,
        seeks_near: bool = False,
    ) -> None:
        """`cache`: where answers are kept, if the model wants that. `seeks_near`: so are texts, by their vectors."""
        self.published = published
        self.engine = engine = published
        self.near: SemanticEngine | None = None
        """Where texts are answered with the answers to near ones; somebody has to open it."""
        self.recall: Recall | None = None
        """Answers to bodies that came before; None where no answers are kept."""
        if cache is not None and (rules := published.caching) is not None:
            inner = published
            if seeks_near and rules.semantic is not None:
                inner = self.near = SemanticEngine(published, rules, rules.semantic, cache)
            self.engine = engine = cached_engine(inner, rules, cache)
            if self.near is not None:
                self.near.stand_behind(engine)
            self.recall = Recall(engine)
        self.arriving = 0
        """Requests outside the lane that were let in and are not submitted yet: the engine stays open for them, and for
        those for which a near text is sought."""
        self._decoder = BodyDecoder(
            engine.signature, default_timeout_s=engine.default_timeout_s, max_json_depth=max_json_depth
        )
        self._takes_text = any(spec.datatype == "BYTES" for spec in engine.signature.inputs)
        self._encoder = AnswerEncoder(engine.name, engine.version, engine.signature, engine.labels)
        self.generate = GenerateForm(
            engine.name,
            engine.version,
            engine.signature,
            default_timeout_s=engine.default_timeout_s,
            max_json_depth=max_json_depth,
        )
        # The express lane's short cuts, without a call in between. A request with an error has no outputs.
        self.plain = self._encoder.plain
        self.whole = None if self._takes_text else self._decoder.decode
        """Reads a JSON body, without a call in between."""
        self.decode = self.whole if self.recall is None else None
        self.fresh = self.whole if self.recall is not None else None
        """`whole`, until a whole answer is remembered: from then on bodies are looked up first."""
        if self.recall is not None:
            self.recall.on_first = self._look_up_bodies

    def _look_up_bodies(self) -> None:
        self.fresh = None

    def read(
        self,
        body: Body,
        arrived: float,
        on_done: OnDone,
        content_type: bytes | None = None,
        header_length: bytes | None = None,
    ) -> Request:
        """A body as a request. `arrived`: monotonic seconds. The last two are header values as they came, or None.

        Raises `RequestError` only.
        """
        if header_length is not None:
            return self._decoder.decode(body, arrived, on_done, parse_header_length(header_length))
        if self.is_image(content_type):
            return self._decoder.decode_image(body, arrived, on_done)
        return self._decoder.decode(body, arrived, on_done)

    def is_image(self, content_type: bytes | None) -> bool:
        """Whether a body of this type is one raw row, where no header says otherwise."""
        return self._takes_text and content_type is not None and content_type[:6].lower() == b"image/"

    def read_in_steps(
        self,
        body: bytes | bytearray,
        arrived: float,
        on_done: OnDone,
        content_type: bytes | None = None,
        header_length: bytes | None = None,
    ) -> Generator[None, None, Request]:
        """Like `read`, for a large body: its JSON is decoded in steps of a fraction of a millisecond, each then yields.

        Text, NaN and errors take one long last step.
        """
        if header_length is not None:
            length = parse_header_length(header_length)
            if length:
                return (yield from self._decoder.decode_binary_in_steps(body, arrived, on_done, length))
            return self._decoder.decode(body, arrived, on_done, length)
        if content_type is not None and content_type[:6].lower() == b"image/":
            return self.read(body, arrived, on_done, content_type)
        return (yield from self._decoder.decode_in_steps(body, arrived, on_done))

    def slow_to_decode(self, header_length: bytes | None) -> bool:
        """Whether a large body is worth decoding in steps: JSON and BYTES are, other binary tensors are not read."""
        return header_length is None or self._takes_text

    def read_elsewhere(
        self,
        body: bytes | bytearray,
        arrived: float,
        on_done: OnDone,
        content_type: bytes | None,
        header_length: bytes | None,
        then: Callable[[Request | Exception], None],
    ) -> None:
        """`read_in_steps`, one step in each turn of the running event loop; then calls `then` with what came of it.

        For callers that cannot await. `then` may be called before this returns.
        """
        in_turns(self.read_in_steps(body, arrived, on_done, content_type, header_length), then)

    def answer(self, request: Request) -> Answer:
        """The HTTP answer of a request that is done. Never raises."""
        error: BaseException | None = request.error
        if error is None:
            try:
                headers, body = self._encoder.encode(request)
                if request.cached is not None:
                    headers = (*headers, *told(request.cached))
                return Answer(200, headers, body)
            except Exception as failure:
                error = failure
        return self.refuse(error)

    def refuse(self, error: BaseException) -> Answer:
        """The HTTP answer to an error on the way; one that nobody foresaw is logged."""
        if not isinstance(error, ForebayError):
            log_unforeseen(error, self.engine.name)
        return problem_of(error)


def in_turns(steps: Generator[None, None, T], then: Callable[[T | Exception], None]) -> None:
    """Runs one step in each turn of the running event loop; then calls `then`, perhaps before this returns."""
    loop = asyncio.get_running_loop()

    def step() -> None:
        try:
            next(steps)
        except StopIteration as end:
            then(end.value)
        except Exception as error:
            then(error)
        else:
            loop.call_soon(step)

    step()


def log_unforeseen(error: BaseException, model: str = "") -> None:
    """One log line, with the traceback, for an error that became an `internal` answer."""
    log.error("request failed: %s", type(error).__name__, exc_info=error, extra=fields(model=model, code="internal"))


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
                sought = endpoint.near is not None and endpoint.near.pending
                if endpoint.arriving or sought or any(look(endpoint) for look in self.lookers):
                    return True
                self._replaced.remove(endpoint)
                break
        return False

    @property
    def endpoints(self) -> list[Endpoint]:
        """Of all versions of all models that are served."""
        return [endpoint for versions in self._versions.values() for endpoint in versions.values()]

    def versions(self, model: str) -> list[EngineClient]:
        """The engines of a model that is served, the smallest version first; none for one that is not."""
        found = self._versions.get(model, {})
        return [found[version].engine for version in sorted(found, key=_order)]

    async def awake(self, model: str, version: str | None, authorization: bytes | None) -> None:
        """Before `find`, on ways that can wait: loads a model again that was unloaded to make room.

        Raises `AdmissionError` (unauthorized, over_quota, model_not_ready), `RequestError` (model_not_found).
        """
        if self.on_demand is not None and self.on_demand.covers(model):
            self.gate.enter(authorization)
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
            raise RequestError(f"there is no model {show(model)}", code="model_not_found")
        if version is None or version == endpoint.engine.version:
            return endpoint
        other = self._versions[model].get(version)
        if other is None:
            raise RequestError(
                f"model {show(model)} has no version {show(version)}; it has "
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
