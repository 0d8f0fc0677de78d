"""A generator's run, as its instance sees it: pieces by row while it goes on, and each row's whole answer at its end.

The whole answer of a row is made of its pieces, output by output: BYTES and outputs with a variable axis are joined,
of others the last piece counts; the model's `joins` may say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, as_bytes
from forebay.models.signature import Signature, TensorSpec
from forebay.models.streaming import Partial, Progress
from forebay.runtimes.port import Runtime, is_out_of_memory


class Piece(NamedTuple):
    """A piece of the answers of some rows. `outputs`: index of the output to its array, [len(rows), ...]."""

    rows: list[int]
    outputs: dict[int, Array]


class Told(NamedTuple):
    """How far these rows are, 0 to 1."""

    rows: list[int]
    fraction: float


class Ended(NamedTuple):
    """A row's whole answer: every output in the order of the signature, [1, ...]."""

    row: int
    outputs: list[Array]


Event = Piece | Told | Ended
Read = Callable[[Any, int], dict[int, Array]]
"""(what was yielded, rows that it is for) -> checked arrays by index of the output; some may be left out."""


@runtime_checkable
class StreamingRuntime(Runtime, Protocol):
    """A runtime whose models may answer in pieces."""

    streams: bool
    """Whether this one does, as far as is known."""

    def stream(self, inputs: dict[str, Array], rows: int) -> Stream:
        """Begin a batch. Raises `ExecutionError` as `run` does."""
        ...


class Stream:
    """One batch on its way. `rows` are its rows; `gone` those whose callers have left."""

    def __init__(self, source: Iterable[Any], rows: int, read: Read, joins: Sequence[Joining]) -> None:
        self._generator: Any = iter(source)
        self._read = read
        self._joins = joins
        self._pieces: list[list[list[Array]]] = [[[] for _ in joins] for _ in range(rows)]
        self._send = getattr(self._generator, "send", None)
        self._begun = False
        self.live = set(range(rows))
        """Rows that are neither complete nor given up."""
        self.gone: frozenset[int] = frozenset()

    def cancel(self, rows: Iterable[int]) -> bool:
        """The callers of these rows have left. Returns whether anybody still waits."""
        left = self.live.intersection(rows)
        self.gone |= left
        self.live -= left
        return bool(self.live)

    def close(self) -> None:
        """End the generator: it sees `GeneratorExit` where it stands. Raises `ExecutionError` where it goes wrong."""
        close = getattr(self._generator, "close", None)
        if close is not None:
            _guarded(close)

    def events(self) -> list[Event] | None:
        """What comes of the generator's next yield; None at its end. Raises `ExecutionError`."""
        if self._generator is None:
            return None
        try:
            value = _guarded(self._advance)
        except StopIteration as end:
            self._generator = None
            if end.value is not None:
                raise ExecutionError(
                    "predict is a generator and returned a value; yield it instead", code="output_mismatch"
                ) from None
            return [self._ended(row) for row in sorted(self.live)]
        return self._events(value)

    def _advance(self) -> Any:
        """`yield` gives the model the rows that nobody waits for any more."""
        if self._send is None or not self._begun:
            self._begun = True
            return next(self._generator)
        return self._send(self.gone)

    def _events(self, value: Any) -> list[Event]:
        if isinstance(value, Partial):
            return self._partial(value)
        if isinstance(value, Progress):
            return self._progress(value)
        if type(value) is list and all(isinstance(item, Partial | Progress) for item in value):
            return [event for item in value for event in self._events(item)]
        rows = len(self._pieces)
        return self._piece(list(range(rows)), self._read(value, rows))

    def _partial(self, partial: Partial) -> list[Event]:
        row = self._row(partial.row)
        events: list[Event] = []
        if partial.outputs is not None:
            value = partial.outputs
            if isinstance(value, Mapping):
                value = {name: _one(item) for name, item in value.items()}
            elif isinstance(value, tuple):
                value = tuple(map(_one, value))
            else:
                value = _one(value)
            events = self._piece([row], self._read(value, 1))
        if partial.last and row in self.live:
            events.append(self._ended(row))
        return events

    def _progress(self, progress: Progress) -> list[Event]:
        rows = range(len(self._pieces)) if progress.row is None else [self._row(progress.row)]
        live = [row for row in rows if row in self.live]
        return [Told(live, progress.fraction)] if live else []

    def _row(self, row: Any) -> int:
        if not isinstance(row, int | np.integer) or not 0 <= row < len(self._pieces):
            raise ExecutionError(
                f"predict yielded something for row {row!r} of a batch of {len(self._pieces)} rows",
                code="output_mismatch",
            )
        return int(row)

    def _piece(self, rows: list[int], outputs: dict[int, Array]) -> list[Event]:
        live = [row for row in rows if row in self.live]
        if len(live) != len(rows):
            places = [place for place, row in enumerate(rows) if row in self.live]
            outputs = {index: array[places] for index, array in outputs.items()}
        for place, row in enumerate(live):
            for index, array in outputs.items():
                kept = self._pieces[row][index]
                if not self._joins[index].keeps_all:
                    kept.clear()
                # A copy: the model may fill the same array again for its next piece.
                kept.append(array[place : place + 1].copy())
        return [Piece(live, outputs)] if live else []

    def _ended(self, row: int) -> Ended:
        self.live.discard(row)
        pieces, self._pieces[row] = self._pieces[row], []
        return Ended(row, [join.whole(kept) for join, kept in zip(self._joins, pieces, strict=True)])


class Joining:
    """How the pieces of one output become its whole."""

    def __init__(self, spec: TensorSpec, how: str) -> None:
        self._spec = spec
        self.keeps_all = how == "join"

    def whole(self, pieces: list[Array]) -> Array:
        """The pieces of one row, each [1, ...], as one. Raises `ExecutionError` where they do not fit together."""
        spec = self._spec
        if not pieces:
            if not self.keeps_all:
                raise ExecutionError(f"predict yielded no {spec.name!r} for a row", code="output_mismatch")
            shape = [1, *(max(0, axis) for axis in spec.row_shape)]
            return np.full(shape, b"" if spec.datatype == "BYTES" else 0, NUMPY_TYPES[spec.datatype])
        if not self.keeps_all or len(pieces) == 1:
            return pieces[-1]
        try:
            if spec.variable:
                return np.concatenate(pieces, axis=1 + spec.row_shape.index(-1))
            flat = [[as_bytes(value) for value in piece.reshape(-1).tolist()] for piece in pieces]
            joined = np.empty(len(flat[0]), object)
            joined[:] = [b"".join(column) for column in zip(*flat, strict=True)]
            return joined.reshape(pieces[0].shape)
        except ValueError as error:
            raise ExecutionError(
                f"the pieces of output {spec.name!r} do not fit together: {error}", code="output_mismatch"
            ) from error


def joinings(model: str, signature: Signature, declared: Any) -> list[Joining]:
    """One for each output. `declared`: the model's `joins`. Raises `SetupError` that names the entry and the mend."""
    if not isinstance(declared, Mapping):
        raise SetupError(
            f'model {model}: joins is {declared!r}; write joins = {{"y": "last"}}', code="model_load_error"
        )
    names = [spec.name for spec in signature.outputs]
    for name, how in declared.items():
        if name not in names or how not in ("join", "last"):
            raise SetupError(
                f"model {model}: joins[{name!r}] is {how!r}; name one of the outputs {', '.join(names)}, "
                'and say "join" or "last"',
                code="model_load_error",
            )
    found = []
    for spec in signature.outputs:
        able = spec.variable or spec.datatype == "BYTES"
        how = declared.get(spec.name, "join" if able else "last")
        if how == "join" and not able:
            raise SetupError(
                f'model {model}: joins[{spec.name!r}] is "join", but pieces of {spec.datatype}{list(spec.row_shape)} '
                'cannot be joined: give it a variable axis (-1), or say "last"',
                code="model_load_error",
            )
        found.append(Joining(spec, how))
    return found


def _one(value: Any) -> Any:
    """One row's value as a batch of one row."""
    return value[None] if isinstance(value, np.ndarray) else [value]


def _guarded(call: Callable[[], Any]) -> Any:
    """Call into the model's code; what it raises, save its end, becomes an `ExecutionError`."""
    try:
        return call()
    except StopIteration:
        raise
    except (Exception, SystemExit) as error:
        code = "out_of_memory" if is_out_of_memory(error) else "model_error"
        raise ExecutionError(f"{type(error).__name__}: {error}", code=code) from error
