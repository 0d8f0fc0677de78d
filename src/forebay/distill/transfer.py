"""The transfer set: rows for the teacher to answer and the student to learn, from a file, the request log, or a file
that has the teacher's answers in it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, as_bytes, bytes_array, datatype_of
from forebay.distill.kept import Answers
from forebay.distill.target import Target
from forebay.distill.teacher import key_of
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import (
    Row,
    Tokenize,
    as_labels,
    as_they_were,
    places_by_name,
    read_arrays,
    read_samples,
    without_padding,
)
from forebay.request_log.export import OUTPUT, SHAPE
from forebay.request_log.reading import Reading

LEAST = 32
"""Rows that differ, for a distillation to begin."""
LEAST_JUDGED = 30
"""Rows that judge a student of classes: of fewer a poor one answers too many as its teacher does by chance."""
_LEAST_STOP = 10
_LEAST_HELD = 8
_SHOWN_NUMBERS = 8
_OUTPUTS_FORM = (
    "a .npz with an array [rows, ...] for each input and output.NAME for each output, as forebay log export writes it"
)


@dataclass(frozen=True)
class Transfer:
    """Rows in the order of their source, each once. `known`: answers that came with them, by `key_of` the row."""

    source: str
    sha256: str
    rows: list[Row]
    labels: list[str] = field(default_factory=list)
    known: Mapping[bytes, Answers] = field(default_factory=dict)
    duplicates: int = 0
    passed_over: int = 0
    """Rows of a log that do not fit the model as it is now."""

    def without(self, keys: Collection[bytes]) -> Transfer:
        """Without the rows that have these keys."""
        kept = [place for place, row in enumerate(self.rows) if key_of(row) not in keys]
        return _replaced(self, kept)


@dataclass(frozen=True)
class Part:
    """Rows with what the teacher answered: `wanted` float32 [rows, width]. `labels`: int64, -1 where there is none."""

    rows: list[Row]
    wanted: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labelled(self) -> bool:
        """Whether every row has a label."""
        return bool(len(self.labels)) and bool((self.labels >= 0).all())

    def shown(self) -> list[str]:
        """Each row for a person."""
        return [shown(row) for row in self.rows]


def from_file(path: Path, signature: Signature, tokenize: Tokenize | None) -> Transfer:
    """As `forebay optimize` reads samples. Raises `SetupError`."""
    found = read_samples(path, signature, tokenize)
    return _distinct(Transfer(str(path), found.sha256, [_plain(row, signature) for row in found.rows], found.labels))


def from_log(folder: Path, name: str, signature: Signature, digest: str, tenants: Collection[str] | None) -> Transfer:
    """What the request log of a model holds: all rows that fit the teacher; and its answers to those that it answered
    itself, which need not be asked again. Where a row is not known to be what the teacher was asked, since it may have
    been redacted, the answer that is logged is to another one.
    """
    rows: list[Row] = []
    known: dict[bytes, Answers] = {}
    passed_over = 0
    content = hashlib.sha256()
    variable = {spec.name for spec in signature.inputs if spec.row_shape == (-1,)}
    names = {spec.name for spec in signature.outputs}
    for found in Reading(folder, tenants):
        if not _fits(found.row.inputs, signature):
            passed_over += 1
            continue
        row = without_padding({spec.name: found.row.inputs[spec.name] for spec in signature.inputs}, variable)
        rows.append(row)
        key = key_of(row)
        content.update(key)
        origin = found.origin
        if origin.digest == digest and origin.redacted is False and names <= found.row.outputs.keys():
            known.setdefault(key, found.row.outputs)
    return _distinct(
        Transfer(f"the request log of {name}", content.hexdigest(), rows, known=known, passed_over=passed_over)
    )


def from_outputs(path: Path) -> tuple[Signature, Transfer]:
    """A file of a teacher's inputs and outputs, and the teacher's signature as far as the arrays tell it.

    Raises `SetupError`.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path.suffix or 'a name without suffix'} is not taken")
        columns = read_arrays(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SetupError(f"--teacher-outputs {path}: {told}; it should be {_OUTPUTS_FORM}") from None
    _check_one_teacher(path, columns)
    labels = next((columns.pop(name) for name in ("labels", "label") if name in columns), None)
    shapes = {name.removeprefix(SHAPE): value for name, value in columns.items() if name.startswith(SHAPE)}
    arrays = {name: value for name, value in columns.items() if not name.startswith("_")}
    counts = {len(value) if value.ndim else 0 for value in arrays.values()}
    outputs = {name: value for name, value in arrays.items() if name.startswith(OUTPUT)}
    inputs = {name: value for name, value in arrays.items() if not name.startswith(OUTPUT)}
    if not outputs or not inputs or len(counts) != 1:
        held = ", ".join(f"{name} {list(value.shape)}" for name, value in arrays.items()) or "nothing"
        raise SetupError(f"--teacher-outputs {path} holds {held}; it should be {_OUTPUTS_FORM}")
    try:
        rows, answered = _cropped(inputs, shapes), _cropped(outputs, shapes)
    except ValueError as error:
        raise SetupError(f"--teacher-outputs {path}: {error}") from None
    answers = [{name.removeprefix(OUTPUT): value for name, value in row.items()} for row in answered]
    signature = Signature(
        tuple(_spec(name, value, name in shapes) for name, value in inputs.items()),
        tuple(_spec(name.removeprefix(OUTPUT), value, name in shapes) for name, value in outputs.items()),
    )
    known = {key_of(row): answer for row, answer in zip(rows, answers, strict=True)}
    named = [] if labels is None else as_labels(path, np.asarray(labels).tolist())
    if named and len(named) != len(rows):
        raise SetupError(f"--teacher-outputs {path}: {len(named)} labels for {len(rows)} rows; give each row one")
    return signature, _distinct(Transfer(str(path), digest, rows, named, known))


def _check_one_teacher(path: Path, columns: Mapping[str, Array]) -> None:
    """A log may hold the answers of several versions of a model, or of a student that answered for it."""
    digests = np.unique(columns.get("_digest", np.zeros(0, np.str_))).tolist()
    if len(digests) > 1:
        versions = ", ".join(map(str, np.unique(columns.get("_version", np.zeros(0, np.str_))).tolist()))
        raise SetupError(
            f"--teacher-outputs {path} holds answers of {len(digests)} models ({', '.join(d[:12] for d in digests)}; "
            f"versions {versions}), and a student has one teacher: choose with forebay log export --version, keep the "
            "rows of one _digest, or let the teacher answer itself: distill TEACHER --from-log NAME"
        )


def _cropped(columns: Mapping[str, Array], shapes: Mapping[str, Array]) -> list[Row]:
    """Rows; what a table had to fill up is cut off again. Raises `ValueError` for shapes that are none."""
    count = len(next(iter(columns.values())))
    rows: list[dict[str, Array]] = [{} for _ in range(count)]
    for name, values in columns.items():
        if values.dtype.kind in "SU":
            flat = [as_bytes(item) for item in values.reshape(-1).tolist()]
            values = bytes_array(flat, values.shape)
        cut = as_they_were(values, shapes[name]) if name in shapes else values
        for place in range(count):
            rows[place][name] = np.asarray(cut[place])
    return list(rows)


def _spec(name: str, values: Array, ragged: bool) -> TensorSpec:
    shape = tuple(-1 for _ in values.shape[1:]) if ragged else tuple(values.shape[1:])
    try:
        return TensorSpec(name, datatype_of(values), shape)
    except ValueError as error:
        raise SetupError(f"--teacher-outputs: {name!r}: {error}") from None


def _fits(inputs: Mapping[str, Array], signature: Signature) -> bool:
    for spec in signature.inputs:
        value = inputs.get(spec.name)
        if value is None or value.dtype != NUMPY_TYPES[spec.datatype] or value.ndim != len(spec.row_shape):
            return False
        if not all(want in (-1, got) for want, got in zip(spec.row_shape, value.shape, strict=True)):
            return False
    return True


def _plain(row: Row, signature: Signature) -> Row:
    """Texts as bytes, as an engine has them."""
    texts = {spec.name for spec in signature.inputs if spec.datatype == "BYTES"}
    return {
        name: bytes_array([as_bytes(item) for item in value.reshape(-1).tolist()], value.shape)
        if name in texts
        else value
        for name, value in row.items()
    }


def _distinct(found: Transfer) -> Transfer:
    first: dict[bytes, int] = {}
    for place, row in enumerate(found.rows):
        first.setdefault(key_of(row), place)
    return _replaced(found, list(first.values()), duplicates=len(found.rows) - len(first))


def _replaced(found: Transfer, places: Sequence[int], duplicates: int | None = None) -> Transfer:
    return Transfer(
        found.source,
        found.sha256,
        [found.rows[place] for place in places],
        [found.labels[place] for place in places] if found.labels else [],
        found.known,
        found.duplicates if duplicates is None else duplicates,
        found.passed_over,
    )


def labels_as_places(labels: Sequence[str], target: Target, source: str) -> Array:
    """Labels as places among the classes, int64. Raises `SetupError` for one that is no class."""
    places = places_by_name(target.classes)
    # Names or places, never some of each: where names are numbers, "1" would mean both.
    if not set(labels) <= places.keys() and all(label.isdecimal() for label in labels):
        places = {str(place): place for place in range(target.width)}
    unknown = sorted({label for label in labels if label not in places})
    if unknown:
        raise SetupError(
            f"{source}: the label {unknown[0]!r} is no class of {target.name!r}, which has {target.width}: "
            f"{', '.join(target.classes[:10])}; name the classes in the order of the output: --classes A,B,..."
        )
    return np.array([places[label] for label in labels], np.int64)


def split(
    transfer: Transfer, part: Part, held_out: float, seed: int, *, by_class: bool, tested_apart: bool
) -> tuple[Part, Part, Part | None]:
    """Rows to train by, to stop by, and to judge by; the last is None where others are given to judge by. Half of the
    share that is held out stops, the other half judges; of classes as many as it takes. Raises `SetupError` where
    there are too few.
    """
    count = len(part)
    told = f"{transfer.source} holds {count} rows that differ and that the teacher answered"
    if count < LEAST:
        raise SetupError(f"{told}; give at least {LEAST}, better some thousands")
    held = min(max(round(count * held_out), _LEAST_HELD), count // 2)
    stop = held if tested_apart else held // 2
    if by_class and not tested_apart:
        needed = 2 * (_LEAST_STOP + LEAST_JUDGED)
        if count < needed:
            raise SetupError(
                f"{told}, too few to learn from and to judge classes by, which takes {LEAST_JUDGED}: give at least "
                f"{needed}, better some thousands, or a file of at least {LEAST_JUDGED} to judge by: --test FILE"
            )
        held = max(held, needed // 2)
        stop = min(held // 2, held - LEAST_JUDGED)
    order = np.random.default_rng(seed).permutation(count)
    return (
        part_of(part, order[held:]),
        part_of(part, order[:stop]),
        None if tested_apart else part_of(part, order[stop:held]),
    )


def part_of(part: Part, places: Any) -> Part:
    """Some of the rows, in this order."""
    chosen = [int(place) for place in places]
    return Part([part.rows[place] for place in chosen], part.wanted[chosen], part.labels[chosen])


def shown(row: Row) -> str:
    """A row for a person: its text, or its first numbers."""
    parts = []
    for name, value in row.items():
        if value.dtype.kind in "OSU":
            text = " ".join(as_bytes(item).decode("utf-8", "replace") for item in value.reshape(-1).tolist())
            parts.append(text)
        else:
            first = ", ".join(f"{number:.4g}" for number in value.reshape(-1)[:_SHOWN_NUMBERS].tolist())
            parts.append(f"{name}: {first}{', ...' if value.size > _SHOWN_NUMBERS else ''}")
    return "; ".join(parts)
