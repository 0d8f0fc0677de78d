"""Models that other models need beside them: looked at anew whenever one comes or goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Generic, TypeVar

from forebay.api.endpoint import Endpoint
from forebay.api.inference import Inference
from forebay.core.errors import ForebayError, SetupError
from forebay.core.settings_values import did_you_mean
from forebay.engine.client import EngineClient
from forebay.engine.forwarded import ForwardedEngine
from forebay.models.signature import Signature, TensorSpec

log = logging.getLogger("forebay.api")

F = TypeVar("F", bound=ForwardedEngine)
Pair = Callable[[str, str], object]


def no_pair(model: str, other: str) -> None:
    """Where nothing depends on which models answer for one another."""


class Companions(Generic[F]):
    """What stands in front of engines and needs other models. `start` it once, in a running event loop, then `drain`
    and `close`.

    At the start what is wrong with a model that was named by itself is an error; later it is told, and the model goes
    on without.
    """

    def __init__(
        self,
        inference: Inference,
        fronts: Callable[[Endpoint], F | None],
        name: str,
        readings: MutableMapping[tuple[str, str], Any],
        pair: Pair,
    ) -> None:
        """fronts: what stands in front of an endpoint's engine; None: nothing of the kind. readings: what metrics tell,
        by model and version; those that are served no longer are taken away. pair: to be told, as one is opened, which
        models answer for one another.
        """
        self._inference = inference
        self._front_of = fronts
        self._name = name
        self._readings = readings
        self.pair = pair
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        inference.on_route.append(self._noticed)

    def _noticed(self, path: bytes, endpoint: Endpoint | None) -> None:
        self._news.set()

    def start(self, must: Callable[[str], bool] = lambda model: False) -> None:
        """Open what can be opened, and see to the rest as models come and go.

        Raises `SetupError` where that fails for a model that `must`.
        """
        for front in self._fronts():
            error = self._look(front)
            if error is not None and must(front.name):
                raise error
        self._running = asyncio.create_task(self._run(), name=f"forebay {self._name}")

    def drain(self) -> None:
        """The engines are about to take nothing more."""
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        """The end."""
        self.drain()
        if self._running is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            fronts = self._fronts()
            for gone in self._readings.keys() - {(front.name, front.version) for front in fronts}:
                del self._readings[gone]
            for front in fronts:
                try:
                    self._look(front)
                except Exception:  # it goes on whatever happens: without it no model that comes or goes is noticed
                    log.exception("looking at the %s of model %s failed", self._name, front.name)

    def _fronts(self) -> list[F]:
        return [front for endpoint in self._inference.endpoints if (front := self._front_of(endpoint)) is not None]

    def _look(self, front: F) -> SetupError | None:
        """Open or shut one, as things are now; returns what stands in the way, if that is wrong."""
        raise NotImplementedError

    def _served(self, model: str, wanted: str, role: str) -> EngineClient:
        """The engine of NAME or NAME/VERSION that a model needs as its `role`. Raises `SetupError`."""
        engines = self._inference.engines
        name, _, version = (wanted, "", "") if wanted in engines else wanted.partition("/")
        try:
            return self._inference.find(name, version or None).published
        except ForebayError:
            served = sorted(engines.keys() - {model})
            hint = did_you_mean(name, served) or f"; served beside it: {', '.join(served) or 'none'}"
            raise SetupError(f"{model}: its {role} {wanted!r} is not served{hint}") from None

    def _parked(self, wanted: str) -> bool:
        """Whether it is only unloaded to make room for others."""
        on_demand = self._inference.on_demand
        return on_demand is not None and on_demand.covers(wanted.partition("/")[0])


def check_same_form(model: str, role: str, other: str, ours: Signature, its: Signature) -> None:
    """Whether one model can answer for the other. Raises `SetupError`."""
    for words, wanted, found in (("takes", ours.inputs, its.inputs), ("answers", ours.outputs, its.outputs)):
        if list(map(_form, wanted)) != list(map(_form, found)):
            raise SetupError(
                f"{model}: its {role} {other!r} {words} {_told(found)}, the model itself {_told(wanted)}; both must "
                "have the same names, datatypes and shapes"
            )


def _form(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.name, spec.datatype, tuple(spec.row_shape)


def _told(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in specs)
