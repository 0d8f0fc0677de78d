"""The samples that a search measures with: rows for a model's inputs, with labels or without, split in two."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, stack_rows
from forebay.models.signature import Signature, TensorSpec
from forebay.request_log.export import SHAPE

FORMS = (
    ".npz (an array [samples, ...] for each input, `labels` if there are any), .jsonl (an object a line: inputs by "
    "name, or `text`; `label`), .csv (a column `text`, or numbers; `label`), .txt (a text a line)"
)
MASK = "attention_mask"
LEAST = 8
"""Samples that a search needs."""
_LABELS = ("labels", "label")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0+", re.ASCII)
_BOM = b"\xef\xbb\xbf"

Row = Mapping[str, Array]
"""Input name to the value of one row, without the batch axis. Rows of a variable axis may differ in length."""

Tokenize = Callable[[Sequence[str]], list[dict[str, Array]]]
"""Texts to rows of a model that takes tokens."""


@dataclass(frozen=True)
class Samples:
    """Rows in the order of the file. `labels`: one a row, else empty. `texts`: what rows show in a report, or empty.
    `numbers`: of each row in the file, from 1 on.
    """

    rows: list[Row]
    labels: list[str]
    texts: list[str]
    sha256: str
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, indices: Sequence[int]) -> Samples:
        """Some of the samples, in this order."""
        labels = [self.labels[i] for i in indices] if self.labels else []
        texts = [self.texts[i] for i in indices] if self.texts else []
        return Samples([self.rows[i] for i in indices], labels, texts, self.sha256, [self.numbers[i] for i in indices])

    def shown(self, index: int) -> str:
        """One sample for a person."""
        if self.texts:
            return self.texts[index]
        parts = []
        for name, value in self.rows[index].items():
            first = ", ".join(f"{number:.4g}" for number in value.reshape(-1)[:8].tolist())
            parts.append(f"{name}: {first}{', ...' if value.size > 8 else ''}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Split:
    """Two parts that share no sample: recipes see only the first, the gate only the second."""

    calibration: Samples
    held_out: Samples
    seed: int
    duplicates: int = 0
    """Samples of the file that were left out, since others are equal."""


def split(samples: Samples, held_out_share: float, most: int, seed: int, file: str = "") -> Split:
    """At most `most` samples, chosen and parted by the seed, each once: what is in both parts, the gate would not judge
    but recognise. Raises `SetupError` that names the file for fewer than 8.
    """
    once = distinct(samples)
    if len(once) < LEAST:
        some = f"{len(once)} samples" + (f" that differ, of {len(samples)}" if len(samples) > len(once) else "")
        raise SetupError(f"--samples {file} holds {some}; give at least {LEAST}, better some hundreds")
    order = np.random.default_rng(seed).permutation(len(once))[:most].tolist()
    held = min(max(round(len(order) * held_out_share), 2), len(order) - 2)
    return Split(once.part(order[held:]), once.part(order[:held]), seed, duplicates=len(samples) - len(once))


def distinct(samples: Samples) -> Samples:
    """The first of those that are equal in all inputs."""
    first: dict[tuple[object, ...], int] = {}
    for index, row in enumerate(samples.rows):
        values = ((v.shape, tuple(v.reshape(-1)) if v.dtype == object else v.tobytes()) for v in row.values())
        first.setdefault(tuple(values), index)
    return samples if len(first) == len(samples) else samples.part(list(first.values()))


def batch_of(rows: Sequence[Row]) -> dict[str, Array]:
    """Rows as one batch; where they differ in length they are filled up with zeros, as the server does it."""
    return {name: stack_rows([row[name][np.newaxis] for row in rows]) for name in rows[0]}


def length_of(row: Row) -> int:
    """Elements of all inputs, for sorting."""
    return sum(value.size for value in row.values())


def shape_of(rows: Sequence[Row]) -> tuple[tuple[int, ...], ...]:
    """The shape of each input of a batch of these rows, but for the batch axis."""
    return tuple(tuple(map(max, zip(*(row[name].shape for row in rows), strict=True))) for name in rows[0])


def read_samples(path: Path, signature: Signature, tokenize: Tokenize | None) -> Samples:
    """The samples of a file. Raises `SetupError` that names file, line and what is taken."""
    if not signature.inputs:
        raise SetupError("the model has no inputs, so there is nothing to sample")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(f"--samples {path}: {error.strerror or error}; name a file: {FORMS}") from None
    readers = {".npz": _from_npz, ".jsonl": _from_jsonl, ".csv": _from_csv, ".txt": _from_txt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SetupError(f"--samples {path}: {path.suffix or 'a name without suffix'} is not taken; that is {FORMS}")
    try:
        columns, labels = reader(path, signature)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, csv.Error) as error:
        raise SetupError(f"--samples {path} cannot be read: {error}; what is taken: {FORMS}") from None
    names = [spec.name for spec in signature.inputs]
    texts: list[str] = []
    if "text" in columns and "text" not in names:
        texts = [str(text) for text in columns["text"]]
        if not texts:
            raise SetupError(f"--samples {path} holds no text; write one a line")
        if [spec.datatype for spec in signature.inputs] == ["BYTES"]:
            rows = _rows(path, {names[0]: texts}, signature)
        else:
            rows = _tokenized(path, texts, signature, tokenize)
    else:
        rows = _rows(path, columns, signature)
    if len(labels) and len(labels) != len(rows):
        raise SetupError(f"--samples {path}: {len(labels)} labels for {len(rows)} samples; give each sample one")
    return Samples(rows, as_labels(path, labels), texts, digest, range(1, len(rows) + 1))


def as_labels(path: Path, values: Sequence[Any]) -> list[str]:
    """Labels as texts: 3, 3.0 and "3" are one label, whatever the file makes of numbers. Raises `SetupError`."""
    return [_as_label(f"--samples {path}, sample {number}", value) for number, value in enumerate(values, 1)]


def _as_label(where: str, value: Any) -> str:
    mend = "give each sample one number or word"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str | int | float):  # a list, where a label has an axis of its own
        raise SetupError(f"{where}: its label is {str(value)[:60]}; {mend}")
    text = str(value).strip()
    if not text:
        raise SetupError(f"{where}: its label is empty; {mend}")
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):  # tables write what is missing so
        raise SetupError(f"{where}: its label is {text}; {mend}, or leave the sample out")
    return plain_label(text)


def plain_label(text: str) -> str:
    """3.0 as 3. No other number is written anew: 007 may be a name."""
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def places_by_name(names: Sequence[str]) -> dict[str, int]:
    """Places of classes by what `as_labels` makes of their names."""
    plain = [plain_label(name) for name in names]
    return {name: place for place, name in enumerate(plain if len(set(plain)) == len(names) else names)}


Columns = dict[str, Any]


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a .npz file. Raises `OSError`, `ValueError`, `EOFError` or `zipfile.BadZipFile`."""
    with path.open("rb") as opened:
        try:
            arrays = np.load(opened, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it holds one array without a name; write numpy.savez(file, NAME=array)")
            return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise
        except Exception as error:  # whatever zlib, numpy's parser of headers or the memory make of damaged bytes
            raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from None


def json_lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The objects of a file that has one a line, the first ones. Raises `OSError`, or `ValueError` that names the
    line."""
    lines = [line for line in path.read_bytes().removeprefix(_BOM).splitlines() if line.strip()]
    found = []
    for number, line in enumerate(lines[:most], 1):
        try:
            found.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}; write an object on each line") from None
        except RecursionError:
            raise ValueError(f"line {number}: it is nested too deeply") from None
    return found


def csv_lines(path: Path) -> list[list[str]]:
    """The lines of a table, its names first, all of one length. Raises `OSError`, `ValueError` or `csv.Error`."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file, strict=True) if line]
    if not lines:
        raise ValueError("it is empty")
    for number, entry in enumerate(lines[1:], 2):
        if len(entry) != len(lines[0]):
            raise ValueError(f"row {number}: has {len(entry)} values for {len(lines[0])} columns")
    return lines


def text_lines(path: Path) -> list[str]:
    """The lines of a file that hold something. Raises `OSError` or `ValueError`."""
    # Not splitlines: that breaks at characters that are inside a text, such as U+2028.
    return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def _from_npz(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    columns: Columns = read_arrays(path)
    single = [name for name, values in columns.items() if np.ndim(values) == 0]
    if single:
        raise ValueError(f"{single[0]!r} is a single number, not an array [samples, ...]")
    for name in columns.keys() & {spec.name for spec in signature.inputs}:
        if (shapes := columns.get(SHAPE + name)) is not None:
            columns[name] = as_they_were(columns[name], shapes)
    return columns, _labels(columns, signature)


def as_they_were(values: Array, shapes: Array) -> list[Array]:
    """Rows of a table [rows, ...] that was filled up, each cut to its shape. Raises `ValueError`."""
    if np.shape(shapes) != (len(values), np.ndim(values) - 1) or shapes.dtype.kind not in "iu":
        raise ValueError(f"{SHAPE}NAME holds the shape of each row, {[len(values), np.ndim(values) - 1]} numbers")
    return [row[tuple(slice(0, int(axis)) for axis in shape)] for row, shape in zip(values, shapes, strict=True)]


def _from_jsonl(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    columns: dict[str, list[Any]] = {}
    for number, entry in enumerate(json_lines(path), 1):
        if number > 1 and entry.keys() != columns.keys():
            had, has = ", ".join(sorted(columns)), ", ".join(sorted(entry)) or "nothing"
            raise SetupError(f"--samples {path}, line {number}: has {has}, line 1 has {had}; give all lines the same")
        for name, value in entry.items():
            columns.setdefault(name, []).append(value)
    found: Columns = dict(columns)
    return found, _labels(found, signature)


def _from_csv(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    names, *entries = csv_lines(path)
    if _are_values(names):
        raise SetupError(
            f"--samples {path}: its first line holds numbers alone, {','.join(names)[:60]}, where the names of the "
            "columns belong; write a line of names above it"
        )
    columns: Columns = {name: [entry[place] for entry in entries] for place, name in enumerate(names)}
    if len(columns) != len(names):
        raise ValueError(f"two columns have one name: {', '.join(names)}; does its first line hold names?")
    labels = _labels(columns, signature)
    if "text" in columns:
        return {"text": columns["text"]}, labels
    if len(signature.inputs) != 1:
        raise SetupError(f"--samples {path}: a table of numbers goes to a model of one input; use .npz or .jsonl")
    try:
        numbers = table_of([columns[name] for name in columns])
    except ValueError as error:
        raise SetupError(f"--samples {path}: {error}; a column is numbers, or it is called text or label") from None
    table: Columns = {signature.inputs[0].name: list(numbers)}
    return table, labels


def table_of(columns: Sequence[Sequence[str]]) -> Array:
    """Numbers as they are written, [rows, columns]: whole ones as int64 where all are, since float64 would make others
    of large ones. Raises `ValueError`."""
    try:
        return np.array([[int(value) for value in column] for column in columns], np.int64).T
    except (ValueError, OverflowError):
        return np.array([[float(value) for value in column] for column in columns], np.float64).T


def _are_values(names: Sequence[str]) -> bool:
    """Whether a table's first line is one of numbers, and not the places of columns by which tools name them."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return False
    return not any(numbers == list(range(first, first + len(numbers))) for first in (0, 1))


def _from_txt(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    return {"text": text_lines(path)}, []


def _labels(columns: Columns, signature: Signature) -> Sequence[Any]:
    """Takes the labels out of the columns."""
    inputs = {spec.name for spec in signature.inputs}
    for name in _LABELS:
        if name in columns and name not in inputs:
            values: Sequence[Any] | Array = columns.pop(name)
            return values.tolist() if isinstance(values, np.ndarray) else values
    return []


def _tokenized(path: Path, texts: list[str], signature: Signature, tokenize: Tokenize | None) -> list[Row]:
    names = [spec.name for spec in signature.inputs]
    if tokenize is None:
        raise SetupError(
            f"--samples {path} holds texts, and the model takes {', '.join(names)}; name the tokenizer with "
            "--tokenizer tokenizer.json"
        )
    rows = tokenize(texts)
    lacking = [name for name in names if rows and name not in rows[0]]
    if lacking:
        raise SetupError(f"a tokenizer gives {', '.join(rows[0])}; the model also takes {', '.join(lacking)}")
    return [
        {spec.name: _value(f"--samples {path}, text {number}", spec, row[spec.name]) for spec in signature.inputs}
        for number, row in enumerate(rows, 1)
    ]


def _rows(path: Path, columns: Columns, signature: Signature) -> list[Row]:
    names = [spec.name for spec in signature.inputs]
    lacking = [name for name in names if name not in columns]
    if lacking:
        raise SetupError(
            f"--samples {path} holds {', '.join(columns) or 'nothing'}; the model takes {', '.join(names)}: name what "
            "is in the file so"
        )
    counts = {len(columns[name]) for name in names}
    if len(counts) != 1:
        raise SetupError(f"--samples {path}: its inputs differ in length: {sorted(counts)}")
    rows: list[Row] = [
        {
            spec.name: _value(f"--samples {path}, sample {index + 1}", spec, columns[spec.name][index])
            for spec in signature.inputs
        }
        for index in range(counts.pop())
    ]
    variable = {spec.name for spec in signature.inputs if spec.row_shape == (-1,)}
    return [without_padding(row, variable) for row in rows]


def _value(where: str, spec: TensorSpec, value: Any) -> Array:
    """One row's value of one input. Raises `SetupError` where its shape or type does not fit."""
    try:
        if spec.datatype == "BYTES":
            array = np.array(_decoded(value), dtype=object)
            if not all(isinstance(item, str | bytes) for item in array.reshape(-1)):
                raise ValueError(f"{str(value)[:60]!r} is no text")
        else:
            array = _as_type(value, NUMPY_TYPES[spec.datatype])
        if array.ndim != len(spec.row_shape) and -1 not in spec.row_shape:
            array = array.reshape(spec.row_shape)
        elif array.ndim == 0 and len(spec.row_shape) == 1:
            array = array.reshape(1)  # one element, as the request log exports it
    except (TypeError, ValueError, OverflowError) as error:
        raise SetupError(f"{where}: {spec.name!r} takes {spec.datatype} {list(spec.row_shape)}: {error}") from None
    fits = array.ndim == len(spec.row_shape) and all(
        want in (-1, got) for want, got in zip(spec.row_shape, array.shape, strict=True)
    )
    if not fits:
        wanted = f"{list(spec.row_shape)}" + (" (-1: any length)" if -1 in spec.row_shape else "")
        raise SetupError(f"{where}: {spec.name!r} has the shape {list(array.shape)}, the model takes {wanted}")
    return array


def _decoded(value: Any) -> Any:
    """Bytes that are no UTF-8 stand in JSON as the request log exports them. Raises `ValueError`."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(str(value["base64"]), validate=True)
    return value


def _as_type(value: Any, dtype: Any) -> Array:
    """Raises `ValueError` where a number would become another one."""
    array = np.asarray(_filled(value) if dtype.kind == "f" else value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{str(value)[:60]!r} is no number")
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(cast, array):
        raise ValueError(f"{array.reshape(-1)[cast.reshape(-1) != array.reshape(-1)][0]!s} does not fit")
    return cast


def _filled(value: Any) -> Any:
    """What JSON has in place of NaN."""
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return float("nan") if value is None else value


def without_padding(row: Row, variable: Collection[str]) -> Row:
    """An array for all samples pads the short ones, and nobody sends padding: what the mask ends is cut off.

    variable: the inputs that have one axis, of any length.
    """
    mask = row.get(MASK)
    if mask is None or mask.ndim != 1:
        return row
    used = int(np.flatnonzero(mask).max(initial=0)) + 1
    return {name: value[:used] if name in variable else value for name, value in row.items()}
