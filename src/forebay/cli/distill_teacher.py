"""A served model as the teacher of `forebay distill`: our own engine, at low priority."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from forebay.core.errors import AdmissionError, ForebayError, SetupError
from forebay.core.settings_sources import LoadedSettings
from forebay.core.tensors import Array
from forebay.distill.teacher import Answered
from forebay.embedding.engine import EmbeddedEngine, open_alone
from forebay.models.artefact import ServedWith
from forebay.models.signature import Signature
from forebay.models.source import ModelSource
from forebay.optimize.samples import Row, length_of
from forebay.optimize.sources.open import open_original
from forebay.repository.catalog import NamedModel
from forebay.tune.subject import argument_of, source_of

NICENESS: Final = 10
"""Whoever serves on this machine goes first."""
_IN_FLIGHT: Final = 1024
_IN_FLIGHT_ELEMENTS: Final = 8 << 20
"""So many rows, and so many of their elements, are under way at once: enough for any batch."""
_TIMEOUT_S: Final = 3600.0
_AGAIN_S: Final = 0.05
_GONE_S: Final = 60.0
"""A teacher that takes nothing for so long, whose processes end one after the other, will not come back."""


def give_way() -> None:
    """This process and all that it starts use what others leave."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)


def is_hugging_face(text: str) -> bool:
    """Whether an argument is a Hugging Face folder, which is exported before it can be served."""
    return Path(text, "config.json").is_file() and Path(text, "model.safetensors").is_file()


def exported(text: str, name: str | None, work: Path) -> ModelSource:
    """A Hugging Face folder as an ONNX file in `work`. Raises `SetupError`."""
    original = open_original(text, name, work)
    return source_of(original.model, original.name)


class EngineTeacher:
    """See `Teacher`. A context: the engine's processes run within it."""

    def __init__(
        self,
        source: ModelSource,
        loaded: LoadedSettings,
        config: Path | None,
        environ: Mapping[str, str],
        gone_s: float = _GONE_S,
    ):
        self._gone_s = gone_s
        settings = loaded.model(
            source.name, source.class_attributes(), source.sidecar, in_repository=bool(source.settings_file)
        )
        self.name, self.argument = source.name, argument_of(source)
        self.served_with = ServedWith(
            device=settings.devices[0] if settings.devices else "cpu", inference_precision=settings.inference_precision
        )
        self.digest = ""
        self.signature = Signature((), ())
        self._opening = open_alone(
            NamedModel(source, lambda: source),
            config=config,
            environ=environ,
            data_dir=loaded.settings.data_dir,
            max_queue_rows=10 * _IN_FLIGHT,
        )
        self._runner = asyncio.Runner()
        self._engine: EmbeddedEngine | None = None

    def __enter__(self) -> Self:
        try:
            self._engine = self._runner.run(self._opening.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        self.signature, self.digest = self._engine.signature(), self._engine.digest()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._runner.run(self._opening.__aexit__(kind, error, at))
        finally:
            self._runner.close()

    def ask(self, rows: Sequence[Row], answered: Answered) -> None:
        """See `Teacher.ask`."""
        self._runner.run(self._ask(rows, answered))

    async def _ask(self, rows: Sequence[Row], answered: Answered) -> None:
        """A fixed number of askers share the rows; the engine makes batches of what they ask at once."""
        longest = max((length_of(row) for row in rows), default=1)
        askers = max(1, min(_IN_FLIGHT, len(rows), _IN_FLIGHT_ELEMENTS // max(longest, 1)))
        places = iter(range(len(rows)))
        async with asyncio.TaskGroup() as group:
            for _ in range(askers):
                group.create_task(self._asker(rows, places, answered))

    async def _asker(self, rows: Sequence[Row], places: Iterator[int], answered: Answered) -> None:
        for place in places:
            answered(place, await self._one(rows[place]))

    async def _one(self, row: Row) -> dict[str, Array] | str:
        assert self._engine is not None
        inputs = {name: np.asarray(value)[np.newaxis] for name, value in row.items()}
        gone_at: float | None = None
        while True:
            try:
                outputs = await self._engine.infer(inputs, timeout_s=_TIMEOUT_S)
            except AdmissionError as error:
                now = time.monotonic()
                gone_at = (gone_at or now) if error.code != "queue_full" else None
                if gone_at is not None and now - gone_at > self._gone_s:
                    raise SetupError(
                        f"the teacher {self.name} does not answer any more: {error.message}", code="model_load_error"
                    ) from None
                await asyncio.sleep(_AGAIN_S)
                continue
            except ForebayError as error:
                return error.message
            return {name: value[0, ...] for name, value in outputs.items()}


@contextlib.contextmanager
def told_as_setup() -> Iterator[None]:
    """An error of one asker ends all of them as a group; the first one is what there is to tell."""
    try:
        yield
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            if isinstance(error, SetupError):
                raise error from None
        raise
