"""What inference answers: arrays by name, with what the server said about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forebay.core.tensors import Array


@dataclass(frozen=True, eq=False, repr=False)
class Result(Mapping[str, Array]):
    """The outputs of one request. `result["y"]` is an array of the shape that the server named.

    BYTES outputs are object arrays of `bytes`. The arrays are the caller's own and may be written to.
    """

    outputs: dict[str, Array]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The answer's parameters; with `explain=True` also how the request was batched (`batch_rows`, `queue_ms`, ...)."""
    attempts: int = 1
    """How many tries it took."""

    def __getitem__(self, name: str) -> Array:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(f"the answer has no output {name!r}; it has {', '.join(self.outputs) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        return f"Result({self.model_name}: {shown})"
