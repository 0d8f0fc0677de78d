"""What is sent while a configuration is measured: the operator's own rows, the model's examples, or made-up ones."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from forebay.bench.bodies import Endpoint, ModelMetadata, TensorMetadata, infer_request, random_tensor
from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, as_bytes
from forebay.models.source import ModelSource, load_class
from forebay.optimize.samples import (
    MASK,
    Tokenize,
    as_they_were,
    csv_lines,
    json_lines,
    read_arrays,
    table_of,
    text_lines,
    without_padding,
)
from forebay.optimize.texts import open_tokenizer
from forebay.request_log.export import SHAPE

DIFFERENT: Final = 2000
"""Requests that are made up, or taken from a file that has more."""
LONGEST: Final = 32
"""Of a variable axis of made-up rows."""
_FORMS = "a .npz file with an array [count, ...] for each input, a .jsonl file with {NAME: VALUE} on each line, a .txt "
_FORMS += "file with a text on each line, or a .csv file with a column `text`, or of numbers"
_NAMELESS, _TEXT = "", "text"
_NO_INPUTS = ("label", "labels")
"""Columns of a table that are about rows, not of them."""

Row = Mapping[str, Any]
"""One request's row: input name to its value. Without a name it is the one input, or a text for the tokenizer."""


class Tokenizer(msgspec.Struct, frozen=True):
    """What makes tokens of texts, where the model takes those: a `tokenizer.json`, and the most tokens of a text."""

    file: str
    most: int

    def open(self) -> Tokenize:
        """Raises `SetupError` where the library or the file is missing."""
        return open_tokenizer(Path(self.file), self.most)


class Inputs(msgspec.Struct, frozen=True):
    """Whole HTTP requests, and what length each has for the batcher (0: the model has no variable length)."""

    requests: tuple[bytes, ...]
    lengths: tuple[int, ...]
    kind: str
    """For people: where they come from."""


def rows_of(text: str | None, source: ModelSource) -> tuple[list[Row] | None, str]:
    """The rows that `--inputs` names, and for people what they are; None: made up from the model's metadata.

    Without `--inputs` it is the examples of a Python model that has some. Raises `SetupError`.
    """
    if text == "zeros":
        return None, "zeros"
    if text == "random":
        return None, "made-up inputs"
    if text in (None, "examples"):
        examples = _examples(source)
        if examples:
            return examples[:DIFFERENT], "the model's examples"
        if text is None:
            return None, "made-up inputs"
        raise SetupError(
            f"--inputs examples: model {source.name} has no examples(); give a file, zeros or random, or leave it away"
        )
    assert text is not None
    return read_rows(Path(text)), str(text)


def _examples(source: ModelSource) -> list[Row]:
    if source.runtime != "python":
        return []
    try:
        return list(load_class(source)().examples())
    except SetupError:
        raise
    except Exception:
        # They may need what `load` makes, which is done in the instances only.
        return []


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. Raises `SetupError` that names the file, the place and the form."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            rows = _from_arrays(read_arrays(path))
        elif suffix in (".jsonl", ".json"):
            rows = list(json_lines(path, DIFFERENT))
        elif suffix == ".txt":
            rows = [{_NAMELESS: line} for line in text_lines(path)]
        elif suffix == ".csv":
            rows = _from_table(path)
        else:
            raise SetupError(f"--inputs {path}: write {_FORMS}; or one of examples, zeros, random")
    except (OSError, EOFError, ValueError, TypeError, AttributeError, csv.Error, zipfile.BadZipFile) as error:
        raise SetupError(f"--inputs {path}: {error}; it should be {_FORMS}") from None
    if not rows:
        raise SetupError(f"--inputs {path}: holds no rows")
    return rows[:DIFFERENT]


def _from_table(path: Path) -> list[Row]:
    """Texts, or the numbers of the one input in the order of the columns."""
    names, *entries = csv_lines(path)
    if _TEXT in names:
        return [{_NAMELESS: entry[names.index(_TEXT)]} for entry in entries]
    kept = [place for place, name in enumerate(names) if name not in _NO_INPUTS]
    return [{_NAMELESS: row} for row in table_of([[entry[place] for entry in entries] for place in kept])]


def _from_arrays(columns: Mapping[str, Array]) -> list[Row]:
    """Rows of a table; where `forebay log export` filled some up, as they were. Raises `ValueError`, `TypeError`."""
    arrays: dict[str, list[Array]] = {
        name: as_they_were(values, columns[SHAPE + name]) if SHAPE + name in columns else list(values)
        for name, values in columns.items()
        if not name.startswith(SHAPE)
    }
    count = min(map(len, arrays.values()), default=0)
    return [{name: values[at] for name, values in arrays.items()} for at in range(count)]


def build(
    metadata: ModelMetadata,
    rows: Sequence[Row] | None,
    kind: str,
    *,
    timeout_ms: float | None = None,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Inputs:
    """Whole requests of one row each, in the model's own types. Raises `SetupError` where rows do not fit the model.

    timeout_ms: what each request asks for, if anything. tokenizer: for texts, where the model takes tokens.
    """
    if rows is not None:
        rows = _without_padding(metadata, _with_tokens(metadata, rows, kind, tokenizer))
    generator = np.random.default_rng(seed)
    endpoint = Endpoint("127.0.0.1", 80)
    requests, lengths = [], []
    size = 0
    for at in range(DIFFERENT if rows is None else len(rows)):
        if rows is None:
            tensors = [random_tensor(generator, spec, 1, LONGEST) for spec in metadata.inputs]
            if kind == "zeros":
                tensors = [_zeros(tensor) for tensor in tensors]
        else:
            tensors = [_tensor(spec, rows[at], at, len(metadata.inputs)) for spec in metadata.inputs]
        named = [(spec.name, spec.datatype, tensor) for spec, tensor in zip(metadata.inputs, tensors, strict=True)]
        binary = sum(tensor.size for tensor in tensors) > 1024
        requests.append(infer_request(endpoint, metadata.name, named, binary=binary, timeout_ms=timeout_ms))
        lengths.append(max(_length(spec, tensor) for spec, tensor in zip(metadata.inputs, tensors, strict=True)))
        size += len(requests[-1])
        if size > 128 << 20:
            break
    return Inputs(tuple(requests), tuple(lengths), kind)


def _with_tokens(metadata: ModelMetadata, rows: Sequence[Row], kind: str, tokenizer: Tokenizer | None) -> Sequence[Row]:
    """Texts as tokens, where the model has no input of text."""
    texts = [row.get(_NAMELESS, row.get(_TEXT)) for row in rows]
    if any(spec.datatype == "BYTES" for spec in metadata.inputs) or not all(isinstance(text, str) for text in texts):
        return rows
    if tokenizer is None:
        names = ", ".join(spec.name for spec in metadata.inputs)
        raise SetupError(f"{kind} holds texts, and the model takes {names}; name the tokenizer: --tokenizer FILE")
    return tokenizer.open()([str(text) for text in texts])


def _without_padding(metadata: ModelMetadata, rows: Sequence[Row]) -> Sequence[Row]:
    if MASK not in {spec.name for spec in metadata.inputs}:
        return rows
    variable = {spec.name for spec in metadata.inputs if list(spec.shape) == [-1, -1]}
    return [without_padding({name: np.asarray(value) for name, value in row.items()}, variable) for row in rows]


def _tensor(spec: TensorMetadata, row: Row, at: int, inputs: int) -> Array:
    # A text file has no names: its lines are the one input.
    value = row.get(spec.name, row.get(_NAMELESS) if inputs == 1 else None)
    if value is None:
        raise SetupError(f"row {at + 1} of the inputs has no {spec.name!r}; it has {', '.join(sorted(row)) or 'none'}")
    shape = [1 if place == 0 and axis < 0 else axis for place, axis in enumerate(spec.shape)]
    try:
        if spec.datatype == "BYTES":
            flat = np.asarray(value, dtype=object).reshape(-1)
            array = np.empty(flat.size, dtype=object)
            array[:] = [as_bytes(item) for item in flat]
        else:
            array = np.asarray(value, dtype=NUMPY_TYPES[spec.datatype])
        if shape.count(-1) > 1:
            return array.reshape([1, *array.shape])
        return array.reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = f"{spec.datatype}{spec.shape}"
        raise SetupError(f"row {at + 1} of the inputs: {spec.name!r} does not fit {wanted}: {error}") from None


def _zeros(array: Array) -> Array:
    if array.dtype == object:
        empty = np.empty(array.shape, dtype=object)
        empty[...] = b""
        return empty
    return np.zeros_like(array)


def _length(spec: TensorMetadata, array: Array) -> int:
    """As the batcher counts it: bytes of a text, else the longest variable axis behind the batch axis; 0: neither."""
    if spec.datatype == "BYTES":
        return max(1, sum(len(item) for item in array.reshape(-1)))
    variable = [array.shape[place] for place, axis in enumerate(spec.shape) if axis < 0 and place]
    return max(variable, default=0)
