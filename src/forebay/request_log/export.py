"""Rows as a file that other programs read: npz, Parquet, JSON lines, or chats.

Every form but the last is a table: inputs under their names, outputs as `output.NAME`, and beside them `_at` (seconds
since 1970), `_tenant`, `_version`, `_digest` and `_parameters` (JSON). So it is taken where a file of samples is.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
import orjson

from forebay.core.errors import SetupError
from forebay.core.tensors import Array, datatype_of, stack_rows
from forebay.request_log.chat import chat_of
from forebay.request_log.reading import Found

FORMATS: Final = ("npz", "parquet", "jsonl", "chat")
OUTPUT: Final = "output."
SHAPE: Final = "_shape."
"""Before the name of what npz had to fill up: the shapes that its rows had."""
MOST_FILLED_BYTES: Final = 4 << 30
"""Of an array in npz whose rows differ in length: each takes as much as the longest."""


def export(found: Iterable[Found], file: Path, form: str) -> tuple[int, list[str]]:
    """Write rows to a file, which is there only once it is whole: how many, and the columns that had to be left out
    since some rows lack them. Raises `SetupError`, `OSError`."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as opened:
            rows, lacking = _WRITERS[form](found, opened)
        part.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return rows, lacking


def _flat(one: Found) -> dict[str, Array]:
    return one.row.inputs | {OUTPUT + name: array for name, array in one.row.outputs.items()}


def _about(one: Found) -> dict[str, Any]:
    origin = one.origin
    parameters = msgspec.json.encode(one.row.parameters).decode()
    return {
        "_at": one.row.at,
        "_tenant": origin.tenant,
        "_version": origin.version,
        "_digest": origin.digest,
        "_parameters": parameters,
    }


# -- lines ------------------------------------------------------------------------------------------------------------


def _write_jsonl(found: Iterable[Found], file: IO[bytes]) -> tuple[int, list[str]]:
    rows = 0
    for one in found:
        line = {name: _plain(array) for name, array in _flat(one).items()}
        file.write(orjson.dumps(line | _about(one), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        rows += 1
    return rows, []


def _plain(array: Array) -> Any:
    """As JSON has it. A single text stands alone; what is no UTF-8 is {"base64": ...}; NaN and infinities are null."""
    if array.dtype == object:
        if array.size == 1:
            return _told(array.reshape(-1)[0])
        told = np.empty(array.size, dtype=object)
        told[:] = [_told(value) for value in array.reshape(-1).tolist()]
        return told.reshape(array.shape).tolist()
    if array.ndim and array.dtype != np.float16:
        return np.ascontiguousarray(array)  # in the fewest digits that read back to the same value
    return array.tolist()


def _told(raw: bytes) -> Any:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": msgspec.to_builtins(raw)}


def _write_chats(found: Iterable[Found], file: IO[bytes]) -> tuple[int, list[str]]:
    rows = 0
    for one in found:
        file.write(orjson.dumps(chat_of(one), option=orjson.OPT_APPEND_NEWLINE))
        rows += 1
    return rows, []


# -- tables -----------------------------------------------------------------------------------------------------------


def _columns(found: Sequence[Found]) -> tuple[dict[str, list[Array]], list[str]]:
    """The values of each input and output, and the names of those that some rows lack."""
    flat = [_flat(one) for one in found]
    names = list(dict.fromkeys(name for row in flat for name in row))
    whole = [name for name in names if all(name in row for row in flat)]
    columns = {name: [row[name] for row in flat] for name in whole}
    for name, values in columns.items():
        if len({(value.dtype, value.ndim) for value in values}) > 1:
            raise SetupError(
                f"{name!r} differs in datatype or number of axes between rows, as where a model's versions differ: "
                "choose with --version, or export as jsonl"
            )
    return columns, [name for name in names if name not in columns]


def _write_npz(found: Iterable[Found], file: IO[bytes]) -> tuple[int, list[str]]:
    rows = list(found)
    columns, lacking = _columns(rows)
    about = [_about(one) for one in rows]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in columns.items():
            for of, array in _stacked(name, values):
                _add(archive, of, array)
        for name in about[0] if about else ():
            _add(archive, name, np.array([one[name] for one in about]))
    return len(rows), lacking


def _stacked(name: str, values: Sequence[Array]) -> Iterator[tuple[str, Array]]:
    """The values one below the other; where they differ in shape, filled up with zeros or empty texts.

    Raises `SetupError` where that would take more memory than `MOST_FILLED_BYTES`.
    """
    needed = len(values) * math.prod(max(axis) for axis in zip(*(value.shape for value in values), strict=True))
    needed *= max(_item_bytes(value) for value in values)
    if needed > MOST_FILLED_BYTES and sum(value.size * _item_bytes(value) for value in values) < needed / 2:
        raise SetupError(
            f"{name!r} differs so much in length that npz, where every row is as long as the longest, would need "
            f"{needed / (1 << 30):.0f} GiB of memory: export as parquet or jsonl"
        )
    stacked = stack_rows([value[np.newaxis] for value in values])
    yield name, _texts(name, stacked) if stacked.dtype == object else stacked
    if len({value.shape for value in values}) > 1:
        yield SHAPE + name, np.array([value.shape for value in values])


def _item_bytes(value: Array) -> int:
    """What npz needs for each element: numpy gives every text four bytes for each character of the longest."""
    if value.dtype != object:
        return value.dtype.itemsize
    return 4 * max((len(text) for text in value.reshape(-1).tolist()), default=0)


def _texts(name: str, array: Array) -> Array:
    """BYTES in a type that needs no pickle."""
    values = array.reshape(-1).tolist()
    if any(value.endswith(b"\0") for value in values):
        raise SetupError(f"{name!r} holds bytes that end in zero, which npz would cut off: export as jsonl or parquet")
    try:
        return np.array([value.decode() for value in values], dtype=np.str_).reshape(array.shape)
    except UnicodeDecodeError:
        return np.array(values, dtype=np.bytes_).reshape(array.shape)


def _add(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _write_parquet(found: Iterable[Found], file: IO[bytes]) -> tuple[int, list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SetupError(
            'Parquet needs pyarrow, which is not installed: pip install "forebay[parquet]", or export as npz or jsonl'
        ) from None
    rows = list(found)
    columns, lacking = _columns(rows)
    table = {name: _arrow(pyarrow, values) for name, values in columns.items()}
    about = [_about(one) for one in rows]
    for name in about[0] if about else ():
        table[name] = pyarrow.array([one[name] for one in about])
    pyarrow.parquet.write_table(pyarrow.table(table), file, compression="zstd")
    return len(rows), lacking


# Many readers of Parquet know no float16.
_ARROW: Final = {
    "BOOL": "bool_", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float32", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def _arrow(pyarrow: Any, values: Sequence[Array]) -> Any:
    """A column: lists as deep as the rows have axes; texts that stand alone are no lists."""
    depth = values[0].ndim
    if values[0].dtype == object:
        texts = all(_is_text(item) for value in values for item in value.reshape(-1).tolist())
        kind = pyarrow.string() if texts else pyarrow.binary()
        if all(value.size == 1 for value in values):
            return pyarrow.array([value.reshape(-1)[0] for value in values], kind)
        listed = [value.tolist() for value in values]
    else:
        kind = getattr(pyarrow, _ARROW[datatype_of(values[0])])()
        listed = [value.tolist() for value in values]
    for _ in range(depth):
        kind = pyarrow.list_(kind)
    return pyarrow.array(listed, kind)


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


_WRITERS: Final = {"npz": _write_npz, "parquet": _write_parquet, "jsonl": _write_jsonl, "chat": _write_chats}
