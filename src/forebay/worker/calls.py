"""Takes requests that somebody waits for at another process, has the engines here run them, and sends the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, DependencyError, ForebayError
from forebay.core.request import Request
from forebay.engine.call_codec import CallCodec
from forebay.engine.client import EngineClient
from forebay.jobs.calls import Call, CallAnswer, Calls
from forebay.jobs.outbox import Outbox
from forebay.telemetry.logs import fields
from forebay.worker.announcer import served_model

log = logging.getLogger("forebay.worker")

LOOK_S: Final = 2.0
"""How often it is looked for calls that nobody told of."""
RETRY_S: Final = 0.2
"""Before a store that cannot be reached is tried again."""
MOST: Final = 256
"""Calls of one form in one take."""
BATCHES: Final = 2
"""Of each instance that are held here; others are left to other workers."""
LATE_S: Final = 1.0
"""So long after its deadline an answer is still tried to be sent: its caller waits no longer."""


class Line:
    """One engine and the calls that it has."""

    __slots__ = ("codec", "engine", "held")

    def __init__(self, engine: EngineClient) -> None:
        self.engine = engine
        self.codec = CallCodec(engine.signature)
        self.held = 0

    @property
    def room(self) -> int:
        """How many more it should have."""
        engine = self.engine
        if engine.state != "ready":
            return 0
        return min(MOST, BATCHES * max(1, engine.instances) * max(1, engine.best_rows) - self.held)


class _Answer:
    """An answer on its way. `until`: when nobody waits for it any more."""

    __slots__ = ("answer", "until")

    def __init__(self, answer: CallAnswer, until: float) -> None:
        self.answer = answer
        self.until = until


class CallWorker:
    """`start` it once in a running event loop; then `stop` and `close`."""

    def __init__(self, calls: Calls, worker: str, engines: Callable[[], Iterable[EngineClient]], clock: Clock) -> None:
        """`worker`: the id of this process. `engines`: all that are served now. `clock`: that of the engines."""
        self._calls = calls
        self._worker = worker
        self._engines = engines
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._served: list[EngineClient] = []
        self._more: frozenset[str] = frozenset()
        self._held = 0
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._outbox: Outbox[_Answer] = Outbox(self._send, lambda one: len(one.answer.body))
        self._returned: Outbox[Call] = Outbox(self._give_back, lambda call: len(call.body))
        self._stopped = False
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take."""
        self._calls.watch(self._come)
        self._running = asyncio.create_task(self._run(), name="forebay calls")

    def wake(self) -> None:
        """Other models are served than before."""
        self._news.set()

    def stop(self) -> None:
        """Take no more; what was taken is still answered."""
        self._stopped = True
        self._news.set()

    async def close(self, grace_s: float) -> None:
        """Stop, and wait at most so long until all that was taken is answered."""
        self.stop()
        until = self._clock() + grace_s
        if self._running is not None:
            await asyncio.wait([self._running])
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                while self._held:
                    self._ended.clear()
                    await self._ended.wait()
                await self._outbox.empty()
                await self._returned.empty()
        except TimeoutError:
            log.warning("%d requests for other processes were not answered at the end", self._held)
        await self._outbox.close()
        await self._returned.close()

    # -- in -----------------------------------------------------------------------------------------------------------

    def _come(self, forms: frozenset[str]) -> None:
        if not forms or not forms.isdisjoint(self._lines):
            self._news.set()

    async def _run(self) -> None:
        while not self._stopped:
            self._news.clear()
            try:
                taken = await self._take()
            except DependencyError:
                await self._rest(RETRY_S)
            except Exception:  # it goes on whatever happens: without it nobody is answered
                log.exception("taking requests failed")
                await self._rest(LOOK_S)
            else:
                if not taken:
                    await self._rest(LOOK_S)

    async def _rest(self, longest_s: float) -> None:
        if self._stopped:
            return
        try:
            async with asyncio.timeout(longest_s):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _take(self) -> bool:
        """Whether there may be more that there is room for."""
        self._see()
        wanted = {form: room for form, line in self._lines.items() if (room := line.room) > 0}
        if not wanted:
            return False
        taken = await self._calls.take(self._worker, wanted)
        self._more = taken.more
        for call in taken.calls:
            self._begin(call)
        return any(self._lines[form].room > 0 for form in taken.more & self._lines.keys())

    def _see(self) -> None:
        """Bring the lines up to date with what is served; those that are gone answer what they have."""
        served = list(self._engines())
        if served == self._served:
            return
        lines = {line.engine: line for line in self._lines.values()}
        self._lines = {served_model(engine).form: lines.get(engine) or Line(engine) for engine in served}
        self._served = served

    def _begin(self, call: Call) -> None:
        line = self._lines.get(call.form)
        if line is None or self._stopped:
            self._returned.put(call)
            return
        now = self._clock()
        until = now + call.left_s + LATE_S
        line.held += 1
        self._held += 1
        keyed = line.engine.digest  # of now: where variants answer it says which one does

        def done(request: Request) -> None:
            try:
                body = line.codec.pack_answer(request, keyed)
            except Exception as error:
                body = self._refusal(line, error)
            self._end(line, call, body, until)

        try:
            line.engine.submit(line.codec.unpack(call.body, call.left_s, now, done))
        except AdmissionError as error:
            if error.code in ("draining", "model_not_ready"):
                self._returned.put(call)
                self._end(line, call, None, until)
            else:
                self._end(line, call, line.codec.pack_error(error), until)
        except Exception as error:
            self._end(line, call, self._refusal(line, error), until)

    def _refusal(self, line: Line, error: Exception) -> bytes:
        if not isinstance(error, ForebayError):
            name = line.engine.name
            log.error("a request failed: %s", type(error).__name__, exc_info=error, extra=fields(model=name))
            error = ForebayError("the worker failed on this request; its log says why")
        return line.codec.pack_error(error)

    # -- out ----------------------------------------------------------------------------------------------------------

    def _end(self, line: Line, call: Call, body: bytes | None, until: float) -> None:
        """One call is done with here; without a body somebody else gets it."""
        line.held -= 1
        self._held -= 1
        if body is not None:
            self._outbox.put(_Answer(CallAnswer(call.id, body), until))
        if not self._held:
            self._ended.set()
        if call.form in self._more:
            self._news.set()

    async def _send(self, answers: list[_Answer]) -> None:
        """Tell callers; again, until they wait no longer, where the store cannot be reached."""
        while answers:
            try:
                await self._calls.answer([one.answer for one in answers])
                return
            except DependencyError as error:
                log.warning("%d answers wait for the store: %s", len(answers), error.message)
            except Exception:
                log.exception("answers could not be sent")
                return
            await asyncio.sleep(RETRY_S)
            now = self._clock()
            answers = [one for one in answers if one.until > now]

    async def _give_back(self, calls: list[Call]) -> None:
        try:
            await self._calls.give_back(calls)
        except DependencyError as error:
            log.warning("%d requests could not be given back: %s", len(calls), error.message)
