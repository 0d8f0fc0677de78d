"""Vectors of texts, made by a model that is served here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from forebay.core.caching import CacheAsk
from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, SetupError
from forebay.core.request import Request, output_array
from forebay.core.tensors import Array, pack_bytes
from forebay.engine.cached import CachedEngine
from forebay.engine.client import EngineClient
from forebay.models.signature import Signature

_FLOATS = frozenset(("FP16", "FP32", "FP64"))


class TextVectors:
    """Of one embedder, as long as its files are those with this digest."""

    def __init__(self, find: Callable[[], EngineClient], digest: str, clock: Clock) -> None:
        """`find`: the engine that serves it now; raises `ForebayError`. `clock`: monotonic seconds."""
        self._find = find
        self.digest = digest
        self._clock = clock

    async def of(self, texts: Sequence[str], timeout_s: float, tenant: str = "") -> Array:
        """Vectors [texts, dimension], made in one batch where the model batches. Raises `ForebayError`."""
        engine = self._find()
        if engine.digest != self.digest:
            raise AdmissionError(f"the embedder {engine.name!r} has been replaced", code="model_not_ready")
        groups = [texts] if engine.max_batch_rows else [[text] for text in texts]
        return np.concatenate([await self._run(engine, group, timeout_s, tenant) for group in groups])

    async def _run(self, engine: EngineClient, texts: Sequence[str], timeout_s: float, tenant: str) -> Array:
        signature = engine.signature
        done: asyncio.Future[Array] = asyncio.get_running_loop().create_future()

        def on_done(request: Request) -> None:
            if done.done():
                return
            if request.error is not None:
                done.set_exception(request.error)
            else:
                # Copied now: the batch's memory belongs to the next one.
                done.set_result(np.array(output_array(request, 0, signature.batched)).reshape(len(texts), -1))

        payload = pack_bytes([text.encode() for text in texts])
        now = self._clock()
        request = Request(
            inputs=[payload],
            shapes=(tuple(1 for _ in signature.inputs[0].row_shape),),
            rows=len(texts),
            nbytes=len(payload),
            deadline=now + timeout_s,
            arrived=now,
            on_done=on_done,
            cache=CacheAsk(tenant) if isinstance(engine, CachedEngine) else None,
            tenant=tenant,
        )
        engine.submit(request)
        try:
            return await done
        finally:
            engine.cancel(request)  # one that is answered has nothing left to cancel


def check_makes_vectors(name: str, signature: Signature) -> None:
    """Raises `SetupError` for a model that takes anything but texts, or gives no numbers."""
    inputs, output = signature.inputs, signature.outputs[0]
    takes_text = len(inputs) == 1 and inputs[0].datatype == "BYTES" and set(inputs[0].row_shape) <= {1, -1}
    if not takes_text or output.datatype not in _FLOATS:
        raise SetupError(f"{name} is no embedder: it must take one BYTES input, a text a row, and give numbers first")
