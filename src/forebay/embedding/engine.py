"""Models to await: numpy arrays in, numpy arrays out, batched with everybody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from forebay.api.elements import show
from forebay.api.general import check_shape
from forebay.api.site import Site
from forebay.core.caching import USUAL_ASK
from forebay.core.errors import RequestError
from forebay.core.request import Request, output_array
from forebay.core.tensors import NUMPY_TYPES, Array, to_buffer
from forebay.embedding.composition import ModelArgument, catalog_of, settings_of, site_of
from forebay.embedding.keywords import python_words
from forebay.models.signature import Signature, TensorSpec

Inputs = Mapping[str, Any]


class EmbeddedEngine:
    """The models of one site, called from within its event loop. Made by `open_engine` and `create_app`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def models(self) -> list[str]:
        """The models that are served."""
        return list(self._site.inference.engines)

    @property
    def not_ready(self) -> list[str]:
        """Why requests are not welcome; empty when they are."""
        return self._site.not_ready()

    async def infer(
        self,
        inputs: Inputs,
        *,
        model: str | None = None,
        version: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> dict[str, Array]:
        """Run some rows; the outputs by name, as arrays of the caller's own.

        inputs: by name, anything numpy makes an array of: [rows, ...] where the model batches. Numbers are cast where
        nothing is lost but precision. model: may be left out where there is one. version: default the latest.
        timeout_s: default the model's `slo_ms`, else 30 s. priority: 1 is the highest, 0 the default.

        Cancelling the await cancels the request. Raises `RequestError`, `AdmissionError`, `DeadlineExceeded`,
        `ExecutionError`, as over HTTP.
        """
        loop = asyncio.get_running_loop()
        if self._site.loop is not None and self._site.loop is not loop:
            # Its answer would wake nobody in another loop.
            raise RequestError(
                "the engine runs in another event loop: call it there, from other threads with "
                "asyncio.run_coroutine_threadsafe(engine.infer(...), loop)"
            )
        inference = self._site.inference
        name = self._only() if model is None else model
        if inference.on_demand is not None and inference.on_demand.covers(name):
            await inference.on_demand.wake(name, version)
        endpoint = inference.find(name, version)
        inference.admit(endpoint)
        engine = endpoint.engine
        signature = engine.signature
        done: asyncio.Future[dict[str, Array]] = loop.create_future()

        def on_done(request: Request) -> None:
            if done.done():
                return
            if request.error is not None:
                done.set_exception(request.error)
            else:
                # Copied now: the batch's memory belongs to the next one.
                done.set_result(
                    {
                        spec.name: np.array(output_array(request, place, signature.batched))
                        for place, spec in enumerate(signature.outputs)
                    }
                )

        now = monotonic()
        limit_s = engine.default_timeout_s if timeout_s is None else _timeout_s(timeout_s)
        payloads, shapes, rows = _read(inputs, signature)
        request = Request(
            inputs=list(payloads),
            shapes=shapes,
            rows=rows,
            nbytes=sum(map(len, payloads)),
            deadline=now + limit_s,
            arrived=now,
            on_done=on_done,
            priority=_priority(priority),
            cache=None if endpoint.recall is None else USUAL_ASK,
        )
        engine.submit(request)
        try:
            return await done
        finally:
            engine.cancel(request)  # one that is answered has nothing left to cancel

    def signature(self, model: str | None = None) -> Signature:
        """Inputs and outputs of the latest version of a model, which may be left out where there is one."""
        return self._site.inference.find(self._only() if model is None else model, None).engine.signature

    def digest(self, model: str | None = None) -> str:
        """What tells the latest version of a model from every other one: a digest of its files."""
        return self._site.inference.find(self._only() if model is None else model, None).engine.digest

    def labels(self, model: str | None = None) -> Sequence[str]:
        """The names of the classes of a model's latest version, in the order of its output; empty: it has none."""
        return self._site.inference.find(self._only() if model is None else model, None).engine.labels

    async def load(self, model: str) -> None:
        """Load a model, or bring it up to date with its files. Raises `RequestError`, `SetupError`."""
        with python_words():
            await self._site.registry.load(model)

    async def unload(self, model: str) -> None:
        """Stop serving a model; what was let in is answered. Raises `RequestError`."""
        await self._site.registry.unload(model)

    def _only(self) -> str:
        models = self.models
        if len(models) != 1:
            raise RequestError(f"say which model: infer(..., model=NAME); served: {', '.join(models) or 'none'}")
        return models[0]


@asynccontextmanager
async def open_engine(
    *models: ModelArgument,
    name: str | None = None,
    config: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    model_settings: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> AsyncIterator[EmbeddedEngine]:
    """Models without a server: `async with forebay.open_engine(Mlp) as engine: await engine.infer({"x": array})`.

    The arguments are those of `forebay.serve`. Raises `SetupError`.
    """
    with python_words():
        site = site_of(settings_of(settings, model_settings, config, environ), catalog_of(models, name))
    async with _started(site) as engine:
        yield engine


@asynccontextmanager
async def open_alone(
    *models: ModelArgument,
    config: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[EmbeddedEngine]:
    """`open_engine` for a command that asks models what they say themselves, whatever their settings have answer in
    their place. Otherwise they are as `forebay serve` would serve them from the current folder, whose `forebay.toml`
    counts. Jobs of a server that has the same store are left to it. Raises `SetupError`.
    """
    itself: dict[str, Any] = {
        "cache": "off", "request_log": 0.0, "cascade": "none", "variants": "none", "watch": False
    }  # fmt: skip
    with python_words():
        loaded = settings_of({**itself, **settings}, None, config, environ, Path())
        site = site_of(loaded, catalog_of(models, None), alone=True)
    async with _started(site) as engine:
        yield engine


@asynccontextmanager
async def _started(site: Site) -> AsyncIterator[EmbeddedEngine]:
    try:
        with python_words():
            await site.start()
        yield EmbeddedEngine(site)
    finally:
        await site.close()


def _priority(value: int) -> int:
    if not isinstance(value, int) or value < 0:
        raise RequestError(f"priority must be 0 or more, not {show(value)}")
    return value


def _timeout_s(value: float) -> float:
    if not isinstance(value, int | float) or not value >= 0:
        raise RequestError(f"timeout_s must be 0 or more, not {show(value)}")
    return value


def _read(inputs: Inputs, signature: Signature) -> tuple[list[bytes], tuple[tuple[int, ...], ...], int]:
    """Payloads, row shapes and rows. Raises `RequestError` that names the input."""
    known = [spec.name for spec in signature.inputs]
    for name in inputs:
        if name not in known:
            raise RequestError(f"the model has no input {show(name)}; it has {', '.join(known)}")
    missing = [name for name in known if name not in inputs]
    if missing:
        raise RequestError(f"input {', '.join(map(show, missing))} is missing")
    arrays = [_array(inputs[spec.name], spec) for spec in signature.inputs]
    for spec, array in zip(signature.inputs, arrays, strict=True):
        check_shape(array.shape, spec, signature)
    payloads = [to_buffer(array, spec.datatype) for spec, array in zip(signature.inputs, arrays, strict=True)]
    if not signature.batched:
        return payloads, tuple(array.shape for array in arrays), 1
    counts: Sequence[int] = [array.shape[0] for array in arrays]
    if len(set(counts)) != 1:
        raise RequestError(f"inputs must have the same number of rows, they have {', '.join(map(str, counts))}")
    return payloads, tuple(array.shape[1:] for array in arrays), counts[0]


def _array(value: Any, spec: TensorSpec) -> Array:
    wanted = NUMPY_TYPES[spec.datatype]
    if np.ma.is_masked(value):
        raise RequestError(f"input {show(spec.name)} is a masked array, and what is masked has no value; fill it first")
    try:
        array = np.asarray(value, dtype=object if spec.datatype == "BYTES" else None)
        if array.dtype == wanted:
            return array
        whole = array.dtype.kind in "iu" and wanted.kind in "iu"
        if not array.size or whole or np.can_cast(array.dtype, wanted, "same_kind"):
            with np.errstate(over="ignore"):
                cast = array.astype(wanted)
            lost = cast != array if whole else np.isinf(cast) & ~np.isinf(array) if wanted.kind == "f" else False
            if np.any(lost):
                raise ValueError("it has values beyond that range")
            return cast
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"input {show(spec.name)} is not {spec.datatype}: {error}") from None
    raise RequestError(f"input {show(spec.name)}: expected {spec.datatype}, got numpy type {array.dtype}")
