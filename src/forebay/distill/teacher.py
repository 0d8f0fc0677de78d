"""The port of a teacher, and asking it what is not known yet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import as_bytes, pack_bytes
from forebay.distill.kept import Answers, KeptAnswers
from forebay.models.artefact import ServedWith
from forebay.models.signature import Signature
from forebay.optimize.samples import Row
from forebay.request_log.row import KEY_BYTES

_TELL_S = 0.25
_HOPELESS = 50
"""Where so many rows have no answer and none has one, the rest is not asked."""
_MOST_FAILED = 0.1
"""A teacher that cannot answer a larger share of the rows is not taught from."""

Answered = Callable[[int, Answers | str], None]
"""Called for each row, in any order, with its place and the outputs by name, or why there are none."""


class Teacher(Protocol):
    """A model that runs, and answers rows."""

    @property
    def name(self) -> str:
        """The model's."""
        ...

    @property
    def digest(self) -> str:
        """What tells it from every other model, and from itself with other weights."""
        ...

    @property
    def signature(self) -> Signature: ...

    @property
    def argument(self) -> str:
        """As a MODEL argument by itself, for whoever times it."""
        ...

    @property
    def served_with(self) -> ServedWith:
        """Device and precision."""
        ...

    def ask(self, rows: Sequence[Row], answered: Answered) -> None:
        """Answer these rows, as many at once as the engine makes use of. Raises `SetupError`."""
        ...


class AskingWatcher(Protocol):
    """Who is told how far asking is."""

    def asking(self, done: int, total: int, rows_per_s: float) -> None: ...


@dataclass
class Asked:
    """Answers by row; None: there is none. `failed`: what was said of rows without an answer."""

    answers: list[Answers | None]
    asked: int = 0
    known: int = 0
    failed: list[str] = field(default_factory=list)


def key_of(row: Row) -> bytes:
    """What tells a row from others: its inputs' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(row):
        value = row[name]
        text = value.dtype.kind in "OSU"
        data = pack_bytes(as_bytes(item) for item in value.reshape(-1).tolist()) if text else value.tobytes()
        digest.update(f"{name}\0{'BYTES' if text else value.dtype.str}\0{value.shape}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()[:KEY_BYTES]


def ask_all(
    teacher: Teacher | None,
    rows: Sequence[Row],
    came_along: Mapping[bytes, Answers],
    kept: KeptAnswers | None,
    watcher: AskingWatcher,
) -> Asked:
    """Answers to all rows: those that came along with them, those that are on disk, and the teacher's to the rest,
    which are on disk as soon as they are there.

    Raises `SetupError` where the teacher fails, or too many rows stay without an answer.
    """
    keys = [key_of(row) for row in rows]
    stored = kept.load() if kept is not None else {}
    found: list[Answers | None] = [came_along.get(key) or stored.get(key) for key in keys]
    missing = [place for place, answer in enumerate(found) if answer is None]
    result = Asked(found, known=len(rows) - len(missing))
    if teacher is not None and missing:
        _ask(teacher, rows, missing, keys, kept, result, watcher)
    _drop_unusable(result)
    lost = sum(answer is None for answer in found)
    if lost > _MOST_FAILED * len(rows):
        why = f": {result.failed[0]}" if result.failed else ""
        raise SetupError(
            f"the teacher has no answer to {lost} of {len(rows)} rows{why}; look whether the samples are the model's",
            code="model_load_error",
        )
    return result


def _ask(
    teacher: Teacher,
    rows: Sequence[Row],
    missing: Sequence[int],
    keys: Sequence[bytes],
    kept: KeptAnswers | None,
    result: Asked,
    watcher: AskingWatcher,
) -> None:
    began = told = time.monotonic()
    watcher.asking(0, len(missing), 0.0)

    def answered(place: int, outputs: Answers | str) -> None:
        nonlocal told
        result.asked += 1
        if isinstance(outputs, str):
            result.failed.append(outputs)
            if len(result.failed) == result.asked == _HOPELESS:
                raise SetupError(f"the teacher answers none of {_HOPELESS} rows: {outputs}", code="model_load_error")
        else:
            result.answers[missing[place]] = outputs
            if kept is not None:
                kept.add(keys[missing[place]], outputs)
        now = time.monotonic()
        if now - told >= _TELL_S or result.asked == len(missing):
            told = now
            watcher.asking(result.asked, len(missing), result.asked / max(now - began, 1e-9))

    try:
        teacher.ask([rows[place] for place in missing], answered)
    finally:
        if kept is not None:
            kept.close()


def _drop_unusable(result: Asked) -> None:
    """Answers with NaN or infinity teach nothing."""
    for place, answer in enumerate(result.answers):
        if answer is None:
            continue
        for name, value in answer.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                result.answers[place] = None
                result.failed.append(f"it answers NaN or infinity in {name!r}")
                break
