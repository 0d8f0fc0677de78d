"""The samples that a search measures with: rows for a model's inputs, with labels or without, split in two."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, stack_rows
from forebay.models.signature import Signature, TensorSpec

FORMS = (
    ".npz (an array [samples, ...] for each input, `labels` if there are any), .jsonl (an object a line: inputs by "
    "name, or `text`; `label`), .csv (a column `text`, or numbers; `label`), .txt (a text a line)"
)
MASK = "attention_mask"
_LABELS = ("labels", "label")

Row = Mapping[str, Array]
"""Input name to the value of one row, without the batch axis. Rows of a variable axis may differ in length."""

Tokenize = Callable[[Sequence[str]], list[dict[str, Array]]]
"""Texts to rows of a model that takes tokens."""


@dataclass(frozen=True)
class Samples:
    """Rows in the order of the file. `labels`: one a row, else empty. `texts`: what rows show in a report, or empty."""

    rows: list[Row]
    labels: list[str]
    texts: list[str]
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, indices: Sequence[int]) -> Samples:
        """Some of the samples, in this order."""
        labels = [self.labels[i] for i in indices] if self.labels else []
        texts = [self.texts[i] for i in indices] if self.texts else []
        return Samples([self.rows[i] for i in indices], labels, texts, self.sha256)

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


def split(samples: Samples, held_out_share: float, most: int, seed: int) -> Split:
    """At most `most` samples, chosen and parted by the seed. Raises `SetupError` for fewer than 8."""
    if len(samples) < 8:
        raise SetupError(f"--samples holds {len(samples)} samples; give at least 8, better some hundreds")
    order = np.random.default_rng(seed).permutation(len(samples))[:most].tolist()
    held = min(max(round(len(order) * held_out_share), 2), len(order) - 2)
    return Split(samples.part(order[held:]), samples.part(order[:held]), seed)


def batch_of(rows: Sequence[Row]) -> dict[str, Array]:
    """Rows as one batch; where they differ in length they are filled up with zeros, as the server does it."""
    return {name: stack_rows([row[name][np.newaxis] for row in rows]) for name in rows[0]}


def length_of(row: Row) -> int:
    """Elements of all inputs, for sorting."""
    return sum(value.size for value in row.values())


def read_samples(path: Path, signature: Signature, tokenize: Tokenize | None) -> Samples:
    """The samples of a file. Raises `SetupError` that names file, line and what is taken."""
    if not signature.inputs:
        raise SetupError("the model has no inputs, so there is nothing to sample")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(f"--samples {path}: {error.strerror or error}") from None
    readers = {".npz": _from_npz, ".jsonl": _from_jsonl, ".csv": _from_csv, ".txt": _from_txt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SetupError(f"--samples {path}: {path.suffix or 'a name without suffix'} is not taken; that is {FORMS}")
    try:
        columns, labels = reader(path, signature)
    except (OSError, UnicodeDecodeError, ValueError, KeyError) as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(f"--samples {path}: {error}") from None
    texts: list[str] = []
    if "text" in columns and "text" not in {spec.name for spec in signature.inputs}:
        texts = [str(text) for text in columns["text"]]
        rows = _tokenized(path, texts, signature, tokenize)
    else:
        rows = _rows(path, columns, signature)
    if labels and len(labels) != len(rows):
        raise SetupError(f"--samples {path}: {len(labels)} labels for {len(rows)} samples")
    return Samples(rows, [str(label) for label in labels], texts, digest)


Columns = dict[str, Sequence[Any]]


def _from_npz(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    with np.load(path, allow_pickle=False) as file:
        columns: Columns = {name: file[name] for name in file.files}
    return columns, _labels(columns, signature)


def _from_jsonl(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    columns: dict[str, list[Any]] = {}
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise SetupError(f"--samples {path}, line {number}: {error}") from None
        if number > 1 and entry.keys() != columns.keys():
            raise SetupError(f"--samples {path}, line {number}: has {sorted(entry)}, line 1 has {sorted(columns)}")
        for name, value in entry.items():
            columns.setdefault(name, []).append(value)
    found: Columns = dict(columns)
    return found, _labels(found, signature)


def _from_csv(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        entries = list(reader)
        names = list(reader.fieldnames or ())
    columns: Columns = {name: [entry[name] for entry in entries] for name in names}
    labels = _labels(columns, signature)
    if "text" in columns:
        return {"text": columns["text"]}, labels
    if len(signature.inputs) != 1:
        raise SetupError(f"--samples {path}: a table of numbers goes to a model of one input; use .npz or .jsonl")
    numbers = np.array([[float(value) for value in columns[name]] for name in columns], np.float64).T
    table: Columns = {signature.inputs[0].name: list(numbers)}
    return table, labels


def _from_txt(path: Path, signature: Signature) -> tuple[Columns, Sequence[Any]]:
    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {"text": texts}, []


def _labels(columns: Columns, signature: Signature) -> Sequence[Any]:
    """Takes the labels out of the columns."""
    inputs = {spec.name for spec in signature.inputs}
    for name in _LABELS:
        if name in columns and name not in inputs:
            values = columns.pop(name)
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
    return [{spec.name: _value(path, spec, row[spec.name]) for spec in signature.inputs} for row in rows]


def _rows(path: Path, columns: Columns, signature: Signature) -> list[Row]:
    names = [spec.name for spec in signature.inputs]
    lacking = [name for name in names if name not in columns]
    if lacking:
        raise SetupError(
            f"--samples {path} holds {', '.join(columns) or 'nothing'}; the model takes {', '.join(names)}"
        )
    counts = {len(columns[name]) for name in names}
    if len(counts) != 1:
        raise SetupError(f"--samples {path}: its inputs differ in length: {sorted(counts)}")
    rows: list[Row] = [
        {spec.name: _value(path, spec, columns[spec.name][index]) for spec in signature.inputs}
        for index in range(counts.pop())
    ]
    return [_without_padding(row, signature) for row in rows]


def _value(path: Path, spec: TensorSpec, value: Any) -> Array:
    """One row's value of one input. Raises `SetupError` where its shape or type does not fit."""
    try:
        if spec.datatype == "BYTES":
            array = np.array(value, dtype=object)
        else:
            array = np.asarray(value, dtype=NUMPY_TYPES[spec.datatype])
        fixed = [axis for axis in spec.row_shape if axis != -1]
        if array.ndim != len(spec.row_shape) and -1 not in spec.row_shape:
            array = array.reshape(spec.row_shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise SetupError(f"--samples {path}: a value of {spec.name!r} is not {spec.datatype}: {error}") from None
    fits = array.ndim == len(spec.row_shape) and all(
        want in (-1, got) for want, got in zip(spec.row_shape, array.shape, strict=True)
    )
    if not fits:
        wanted = f"rows of shape {list(spec.row_shape)}" + ("" if fixed else " (-1: any length)")
        raise SetupError(f"--samples {path}: {spec.name!r} has a row of shape {list(array.shape)}, not {wanted}")
    return array


def _without_padding(row: Row, signature: Signature) -> Row:
    """An array for all samples pads the short ones, and nobody sends padding: what the mask ends is cut off."""
    mask = row.get(MASK)
    if mask is None or mask.ndim != 1:
        return row
    used = int(np.flatnonzero(mask).max(initial=0)) + 1
    variable = {spec.name for spec in signature.inputs if spec.row_shape == (-1,)}
    return {name: value[:used] if name in variable else value for name, value in row.items()}
