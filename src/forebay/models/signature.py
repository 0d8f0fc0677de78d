"""A model's inputs and outputs, and which axis batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output. `row_shape` is the shape of one row, without the batch axis; -1 is a variable axis.

    `refuses`: of "nan" and "inf" those that the model takes nowhere in this input. A request that holds one is refused
    by itself, before it is in a batch with others.
    """

    name: str
    datatype: str
    row_shape: tuple[int, ...]
    refuses: tuple[str, ...] = ()

    @property
    def variable(self) -> bool:
        """Whether rows of this tensor may differ in shape."""
        return -1 in self.row_shape


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs in order. `batched`: all of them have a leading variable axis that they share."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = True

    def wire_shape(self, spec: TensorSpec) -> list[int]:
        """The full shape as the protocol's metadata shows it: with the batch axis, variable axes as -1."""
        return [-1, *spec.row_shape] if self.batched else list(spec.row_shape)


def spec_from_declaration(kind: str, model: str, declared: Mapping[str, object]) -> tuple[TensorSpec, ...]:
    """Specs from a Python model's `inputs` or `outputs`, such as `{"x": ("FP32", [16])}`.

    Raises `SetupError` (`model_load_error`) that names the model, the entry and the mend.
    """
    example = f'write {kind} = {{"x": ("FP32", [16])}}: name, then datatype and the shape of one row (-1: variable)'
    if not isinstance(declared, Mapping) or not declared:
        raise SetupError(f"model {model}: `{kind}` is {declared!r}; {example}", code="model_load_error")
    specs: list[TensorSpec] = []
    for name, entry in declared.items():
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            raise SetupError(f"model {model}: {kind}[{name!r}] is {entry!r}; {example}", code="model_load_error")
        datatype, shape = entry
        if not isinstance(datatype, str) or datatype not in NUMPY_TYPES:
            raise SetupError(
                f"model {model}: {kind}[{name!r}] has datatype {datatype!r}; use one of {', '.join(NUMPY_TYPES)}",
                code="model_load_error",
            )
        if not isinstance(shape, list | tuple) or not all(isinstance(axis, int) and axis >= -1 for axis in shape):
            raise SetupError(f"model {model}: {kind}[{name!r}] has shape {shape!r}; {example}", code="model_load_error")
        specs.append(TensorSpec(str(name), datatype, tuple(shape)))
    return tuple(specs)
