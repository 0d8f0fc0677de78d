"""Python models: a subclass of `forebay.Model` in a file that the operator named."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, stack_rows
from forebay.models.base import Model
from forebay.models.read_files import ReadFiles, Reading
from forebay.models.signature import Signature, TensorSpec, spec_from_declaration
from forebay.models.source import ModelSource, attributes_of, load_class
from forebay.runtimes.port import is_out_of_memory
from forebay.runtimes.stream import Ended, Stream, joinings


class PythonRuntime:
    """One object of the user's class."""

    platform = "python"
    note = ""

    def __init__(self, source: ModelSource, device: str, threads: int, earlier: ReadFiles | None = None) -> None:
        """earlier: what another instance of it has read."""
        found = load_class(source)
        self.signature = Signature(
            spec_from_declaration("inputs", source.name, found.inputs),
            spec_from_declaration("outputs", source.name, found.outputs),
        )
        self.settings: Mapping[str, Any] = attributes_of(found)
        self.streams = inspect.isgeneratorfunction(found.predict)
        self._joins = joinings(source.name, self.signature, found.joins)
        with _telling(source, device):
            self._model: Model = found()
            self._model.threads = threads
        reading = Reading(source, self._model.files)
        with _telling(source, device):
            self._model.load(device)
        self.read = reading.ended(self._model.files, earlier)
        """Its files and modules besides its own file."""

    def run(self, inputs: dict[str, Array], rows: int) -> list[Array]:
        """See `Runtime.run`. Pieces of a generator are put together."""
        answer = self._predict(inputs)
        if isinstance(answer, Iterator):
            return self._together(Stream(answer, rows, self._pieces, self._joins), rows)
        return [
            _checked(spec, value, rows)
            for spec, value in zip(self.signature.outputs, self._ordered(answer), strict=True)
        ]

    def stream(self, inputs: dict[str, Array], rows: int) -> Stream:
        """See `StreamingRuntime.stream`. What is no generator is one piece."""
        answer = self._predict(inputs)
        return Stream(answer if isinstance(answer, Iterator) else iter([answer]), rows, self._pieces, self._joins)

    def _predict(self, inputs: dict[str, Array]) -> Any:
        try:
            return self._model.predict(**inputs)
        except (Exception, SystemExit) as error:
            code = "out_of_memory" if is_out_of_memory(error) else "model_error"
            raise ExecutionError(f"{type(error).__name__}: {error}", code=code) from error

    def _together(self, stream: Stream, rows: int) -> list[Array]:
        self.streams = True
        whole: list[list[Array]] = [[] for _ in range(rows)]
        while (events := stream.events()) is not None:
            for event in events:
                if isinstance(event, Ended):
                    whole[event.row] = event.outputs
        return [stack_rows(column) for column in zip(*whole, strict=True)]

    def _pieces(self, value: Any, rows: int) -> dict[int, Array]:
        """What a generator yielded, checked; a dict may leave outputs out."""
        specs = self.signature.outputs
        if isinstance(value, Mapping):
            places = {spec.name: index for index, spec in enumerate(specs)}
            if not value.keys() <= places.keys():
                raise ExecutionError(
                    f"predict yielded outputs {sorted(map(str, value))}, declared are {list(places)}",
                    code="output_mismatch",
                )
            return {places[name]: _checked(specs[places[name]], item, rows) for name, item in value.items()}
        return {index: _checked(specs[index], item, rows) for index, item in enumerate(self._ordered(value))}

    def examples(self) -> Sequence[Mapping[str, Any]]:
        """The rows that the model's author gave."""
        return self._model.examples()

    def _ordered(self, answer: Any) -> list[Any]:
        names = [spec.name for spec in self.signature.outputs]
        if isinstance(answer, Mapping):
            if set(answer) != set(names):
                raise ExecutionError(
                    f"predict returned outputs {sorted(map(str, answer))}, declared are {names}", code="output_mismatch"
                )
            return [answer[name] for name in names]
        values = list(answer) if isinstance(answer, tuple) else [answer]
        if len(values) != len(names):
            raise ExecutionError(
                f"predict returned {len(values)} outputs, declared are {names}", code="output_mismatch"
            )
        return values


@contextlib.contextmanager
def _telling(source: ModelSource, device: str) -> Iterator[None]:
    """Whatever the author's code raises while it is loaded is told as that."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise SetupError(
            f"model {source.name}: {source.class_name}.load({device!r}) failed: {type(error).__name__}: {error}",
            code="model_load_error",
        ) from error


def _checked(spec: TensorSpec, value: Any, rows: int) -> Array:
    dtype = NUMPY_TYPES[spec.datatype]
    try:
        array = np.asarray(value, dtype=dtype if dtype.kind == "O" else None)
        if array.dtype.kind in "fc" and dtype.kind in "iub" and array.size:
            raise ValueError(f"its values are {array.dtype}; declare that, or cast them in predict")
        cast = array.astype(dtype, copy=False)
        if dtype.kind in "iu" and not np.can_cast(array.dtype, dtype) and (cast != array).any():
            raise ValueError("it has values that this datatype cannot hold")
        array = cast
    except (TypeError, ValueError, OverflowError) as error:
        raise ExecutionError(f"output {spec.name!r} is not {spec.datatype}: {error}", code="output_mismatch") from error
    if array.shape[:1] != (rows,):
        raise ExecutionError(
            f"output {spec.name!r} has shape {list(array.shape)}; its first axis must be the batch's {rows} rows",
            code="output_mismatch",
        )
    row_shape = array.shape[1:]
    if len(row_shape) != len(spec.row_shape) or any(
        want not in (-1, got) for want, got in zip(spec.row_shape, row_shape, strict=True)
    ):
        raise ExecutionError(
            f"output {spec.name!r} has rows of shape {list(row_shape)}, declared is {list(spec.row_shape)}",
            code="output_mismatch",
        )
    return array
