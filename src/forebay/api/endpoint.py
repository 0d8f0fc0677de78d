"""One served model with its decoder and encoder, and what stands in front of its engine: cascade and caches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from forebay.api.binary import Body, parse_header_length
from forebay.api.cache_control import told
from forebay.api.decode import BodyDecoder, OnDone
from forebay.api.encode import AnswerEncoder
from forebay.api.generate import GenerateForm
from forebay.api.problems import Answer, problem_of
from forebay.api.recall import Recall
from forebay.cache.answer_cache import AnswerCache
from forebay.core.errors import ForebayError
from forebay.core.request import Request
from forebay.engine.cached import CachedEngine
from forebay.engine.cascade import CascadeEngine
from forebay.engine.client import EngineClient
from forebay.engine.semantic import SemanticEngine
from forebay.engine.shared_cached import cached_engine
from forebay.engine.variants import VariantEngine
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.api")
T = TypeVar("T")
Headers = Sequence[tuple[bytes, bytes]]


_WHO = {"cascade", "variants"}
"""Facts of models whose answers tell who gave them."""


class Endpoint:
    """One served model with its decoder and encoder."""

    __slots__ = (
        "_decoder",
        "_encoder",
        "_takes_text",
        "_who",
        "arriving",
        "cached",
        "cascade",
        "decode",
        "engine",
        "fresh",
        "generate",
        "near",
        "plain",
        "published",
        "recall",
        "variants",
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
        engine: EngineClient = published
        self.engine = engine
        self.cascade: CascadeEngine | None = None
        """Where a student answers what it is sure of; somebody has to open it."""
        if published.cascading is not None:
            self.engine = engine = self.cascade = CascadeEngine(published, published.cascading, time.monotonic)
        self.variants: VariantEngine | None = None
        """Where faster forms answer under load; somebody has to open it."""
        if published.varying is not None:
            self.engine = engine = self.variants = VariantEngine(published, published.varying, time.monotonic)
        self.near: SemanticEngine | None = None
        """Where texts are answered with the answers to near ones; somebody has to open it."""
        self.cached: CachedEngine | None = None
        """What has the answers that are kept; None where none are."""
        self.recall: Recall | None = None
        """Answers to bodies that came before; None where no answers are kept."""
        if cache is not None and (rules := published.caching) is not None:
            inner = engine
            if seeks_near and rules.semantic is not None:
                inner = self.near = SemanticEngine(inner, rules, rules.semantic, cache)
            self.engine = engine = self.cached = cached_engine(inner, rules, cache)
            if self.near is not None:
                self.near.stand_behind(engine)
            self.recall = Recall(engine)
        self._who = b"x-cascade" if "cascade" in engine.facts else b"x-model-variant"
        self.arriving = 0
        """Requests outside the lane that were let in and are not submitted yet: the engine stays open for them, and for
        those that are `sought`."""
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
        self.plain = self._encoder.plain if not _WHO & engine.facts.keys() else _not_plain
        self.whole = None if self._takes_text else self._decoder.decode
        """Reads a JSON body, without a call in between."""
        self.decode = self.whole if self.recall is None else None
        self.fresh = self.whole if self.recall is not None else None
        """`whole`, until a whole answer is remembered: from then on bodies are looked up first."""
        if self.recall is not None:
            self.recall.on_first = self._look_up_bodies

    @property
    def sought(self) -> bool:
        """Whether there is a request for which others are asked, or a near text, or the student, and the engine may be
        next."""
        fronts = self.cached, self.near, self.cascade
        return any(front is not None and front.pending for front in fronts)

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
                return Answer(200, self.telling(request, headers), body)
            except Exception as failure:
                error = failure
        return self.refuse(error)

    def telling(self, request: Request, headers: Headers) -> Headers:
        """The headers of an answer, with what it tells of the cache and of who gave it."""
        if request.cached is not None:
            headers = (*headers, *told(request.cached))
        if request.answered_by:
            headers = (*headers, (self._who, request.answered_by.encode()))
        return headers

    def refuse(self, error: BaseException) -> Answer:
        """The HTTP answer to an error on the way; one that nobody foresaw is logged."""
        if not isinstance(error, ForebayError):
            log_unforeseen(error, self.engine.name)
        return problem_of(error)


def _not_plain(request: Request) -> bytes | None:
    """Every answer tells in a header who of the cascade gave it."""
    return None


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
