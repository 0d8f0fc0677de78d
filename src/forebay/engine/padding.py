"""How far the rows of a padded batch are filled up: to a multiple, where each new shape costs the runtime time.

OpenVINO makes kernels for every shape that it meets (4 ms for all-MiniLM-L6-v2 in 8 bits, as long as one or two rows of
30 tokens take), and batches of texts have hundreds: 16 numbers of rows times 60 lengths. A multiple of 8 leaves an
eighth of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forebay.core.errors import ExecutionError
from forebay.core.tensors import Array
from forebay.models.signature import Signature

_USUAL = {"openvino_ir": 8}
"""By platform; of others every shape costs the same."""
Run = Callable[[dict[str, Array], int], list[Array]]


def multiple_for(
    platform: str, signature: Signature, *, pads: object, asked: object, own: Mapping[str, Any] | None = None
) -> int:
    """To what multiple variable axes are filled up; 1: not beyond the longest row.

    `pads` and `asked` are the operator's settings `pad` and `pad_multiple`; where they are None, `own`, the class
    attributes, say it. What has a variable axis in its outputs is not filled up: its caller would see that.
    """
    own = own or {}
    pads = own.get("pad") if pads is None else pads
    asked = own.get("pad_multiple") if asked is None else asked
    if not pads or not signature.batched or any(spec.variable for spec in signature.outputs):
        return 1
    return asked if isinstance(asked, int) and asked > 0 else _USUAL.get(platform, 1)


def rounded(length: int, multiple: int) -> int:
    """The least multiple that is no less."""
    return -(-length // multiple) * multiple


class Padding:
    """Of one loaded model."""

    def __init__(self, signature: Signature, multiple: int) -> None:
        self._specs = [spec for spec in signature.inputs if spec.variable and spec.datatype != "BYTES"]
        self._multiple = multiple
        self._most = 0
        """A length beyond which the model takes no more, as far as is known; 0: none is."""
        self._suspect = 0
        """The length of a batch that ran as it is, and not filled up. Once may be chance."""

    def run(self, run: Run, inputs: dict[str, Array], rows: int) -> list[Array]:
        """Run a batch filled up. Raises what `run` raises on the batch as it is."""
        if self._multiple == 1:
            return run(inputs, rows)
        filled = self._filled(inputs)
        if filled is None:
            return run(inputs, rows)
        try:
            return run(filled, rows)
        except ExecutionError as error:
            if error.code != "model_error":
                raise
        outputs = run(inputs, rows)
        # It was the length: a model of 77 positions takes no 80.
        length = max(
            got
            for spec in self._specs
            for want, got in zip(spec.row_shape, inputs[spec.name].shape[1:], strict=True)
            if want == -1
        )
        if self._suspect:
            self._most = max(self._suspect, length)
        self._suspect = length
        return outputs

    def _filled(self, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
        """None: there is nothing to fill up, or no room."""
        found = dict(inputs)
        changed = False
        for spec in self._specs:
            array = inputs[spec.name]
            shape = self._shape(spec.row_shape, array.shape[1:])
            if shape == array.shape[1:]:
                continue
            if self._most and any(
                filled > max(got, self._most) for filled, got in zip(shape, array.shape[1:], strict=True)
            ):
                return None
            wide = np.zeros((len(array), *shape), array.dtype)
            wide[(slice(None), *(slice(0, axis) for axis in array.shape[1:]))] = array
            found[spec.name], changed = wide, True
        return found if changed else None

    def _shape(self, wanted: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            rounded(got, self._multiple) if want == -1 else got for want, got in zip(wanted, shape, strict=True)
        )
