"""Every call of a client as steps: what to send, what the answer means, when to try again. No I/O in here."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from forebay.client.answers import read_document, read_error, read_result
from forebay.client.bodies import InferBody
from forebay.client.errors import UnreachableError
from forebay.client.options import ClientOptions, InferOptions
from forebay.client.results import Result
from forebay.client.retries import Retries
from forebay.client.steps import Failure, Reply, Send, Sleep, Steps
from forebay.client.tensors import Spec, make_tensors, needs_specs, read_specs
from forebay.core.clock import Clock
from forebay.core.errors import DeadlineExceeded, ForebayError, RequestError, SetupError

DEFAULT_TIMEOUT_S = 30.0
_REMEMBERED_MODELS = 1024
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.05, 0.5
"""Between two looks of `wait_until_ready`; doubled each time."""

T = TypeVar("T")


class Calls:
    """The calls of one client; may be used by many threads at once."""

    def __init__(
        self,
        options: ClientOptions,
        *,
        clock: Clock,
        chance: Callable[[], float],
        today: Callable[[], datetime],
    ) -> None:
        """clock: monotonic seconds. chance: a random number from 0 up to 1. today: the time of day with its zone."""
        self._timeout_s = check_timeout(options.get("timeout_s", DEFAULT_TIMEOUT_S))
        self._retries = options.get("retries", Retries())
        self._binary = options.get("binary", True)
        self._clock = clock
        self._chance = chance
        self._today = today
        self._specs: dict[str, dict[str, Spec]] = {}

    def infer(self, model: str, inputs: Any, options: InferOptions) -> Steps[Result]:
        """One inference request."""
        unknown = set(options) - set(InferOptions.__annotations__)
        if unknown:
            raise TypeError(f"infer has no option {', '.join(sorted(unknown))}")
        deadline = self._deadline(options.get("timeout_s", self._timeout_s))
        casting = options.get("casting", "no")
        path = model_path(model, options.get("version"))
        specs = (yield from self._specs_of(path, deadline)) if needs_specs(inputs, casting) else None
        tensors = make_tensors(inputs, specs, casting)
        body = InferBody(tensors, options, options.get("binary", self._binary))

        def send(left_s: float) -> Send:
            headers, content = body.encode(left_s)
            return Send("POST", f"{path}/infer", deadline, headers, content)

        try:
            reply, attempts = yield from self._persist(send, deadline)
        except RequestError:
            # The model may have been replaced by one with other inputs.
            self._specs.pop(path, None)
            raise
        return read_result(reply, attempts)

    def document(self, path: str) -> Steps[dict[str, Any]]:
        """A document of the server, as JSON."""
        deadline = self._deadline(self._timeout_s)
        reply, _ = yield from self._persist(lambda left_s: Send("GET", path, deadline), deadline)
        return read_document(reply)

    def model_document(self, model: str, version: str | None, suffix: str) -> Steps[dict[str, Any]]:
        """A document of a model."""
        return self.document(model_path(model, version) + suffix)

    def healthy(self, what: Literal["live", "ready"], model: str | None, version: str | None) -> Steps[bool]:
        """Whether the server, or a model, is live or ready now: one try. No answer means no."""
        good, _ = yield from self._look(what, model, version, self._deadline(self._timeout_s))
        return good

    def wait_until_ready(self, model: str | None, version: str | None, timeout_s: float | None) -> Steps[None]:
        """Looks until the server, or a model, is ready. Raises `DeadlineExceeded` that says what was seen last."""
        deadline = self._deadline(check_timeout(timeout_s))
        wait_s = _FIRST_LOOK_S
        while True:
            good, seen = yield from self._look("ready", model, version, deadline)
            if good:
                return
            left_s = deadline - self._clock()
            if left_s <= 0:
                what = "the server" if model is None else f"model {model!r}"
                raise DeadlineExceeded(f"{what} was not ready within {timeout_s:g} s; last: {seen}", stage="waiting")
            yield Sleep(min(wait_s, left_s))
            wait_s = min(2 * wait_s, _LONGEST_LOOK_S)

    def _look(
        self, what: Literal["live", "ready"], model: str | None, version: str | None, deadline: float
    ) -> Steps[tuple[bool, str]]:
        path = f"/v2/health/{what}" if model is None else f"{model_path(model, version)}/ready"
        outcome = yield Send("GET", path, deadline)
        if isinstance(outcome, Reply):
            text = bytes(outcome.body[:200]).decode(errors="replace")
            return outcome.status == 200, f"status {outcome.status} {text}".strip()
        return False, outcome.reason if outcome is not None else "nothing"

    def _specs_of(self, path: str, deadline: float) -> Steps[dict[str, Spec]]:
        known = self._specs.get(path)
        if known is None:
            reply, _ = yield from self._persist(lambda left_s: Send("GET", path, deadline), deadline)
            known = read_specs(read_document(reply))
            if len(self._specs) >= _REMEMBERED_MODELS:
                self._specs.clear()
            self._specs[path] = known
        return known

    def _persist(
        self, send: Callable[[float], Send], deadline: float, good: Container[int] = (200,)
    ) -> Steps[tuple[Reply, int]]:
        """(the first answer of a `good` status, how many tries it took). Raises the last try's error."""
        attempt = 0
        last: ForebayError | None = None
        while True:
            left_s = deadline - self._clock()
            if left_s <= 0:
                raise last or _late("before anything was sent")
            attempt += 1
            outcome = yield send(left_s)
            if isinstance(outcome, Reply):
                if outcome.status in good:
                    return outcome, attempt
                error, retry_after_s = read_error(outcome, self._today())
            else:
                assert outcome is not None
                error, retry_after_s = unanswered(outcome), None
            last = error
            left_s = deadline - self._clock()
            wait_s = self._retries.wait_s(attempt, error, retry_after_s, left_s, self._chance)
            if wait_s is None or left_s <= 0:
                raise error
            yield Sleep(wait_s)

    def _deadline(self, timeout_s: float | None) -> float:
        timeout_s = check_timeout(timeout_s)
        return math.inf if timeout_s is None else self._clock() + timeout_s


def check_timeout(timeout_s: float | None) -> float | None:
    """The timeout. Raises `SetupError` unless it is above 0 seconds, or None."""
    if timeout_s is not None and not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise SetupError(f"timeout_s must be above 0 seconds, or None for no limit, got {timeout_s}")
    return timeout_s


def unanswered(failure: Failure) -> ForebayError:
    """The error of a try that got no answer."""
    if failure.late:
        return _late(failure.reason)
    error = UnreachableError(failure.reason)
    error.retryable = not failure.final
    return error


def _late(reason: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"the call's time was over: {reason}", stage="waiting")


def model_path(model: str, version: str | None) -> str:
    """The path of a model. Raises `RequestError` where its name is empty."""
    if not model:
        raise RequestError("the model's name is empty")
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
