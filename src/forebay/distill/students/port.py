"""What a kind of student has to offer. A kind of one's own is a torch factory; see `students.custom`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.report import Epoch
from forebay.distill.target import Target
from forebay.distill.transfer import Part
from forebay.models.signature import Signature
from forebay.optimize.samples import Row

Told = Callable[[Epoch], None]


@dataclass(frozen=True)
class Plan:
    """How a student is trained. `losses` empty: what suits the output. `epochs`, `batch`, `rate`: None for the kind's
    own."""

    losses: dict[str, float] = field(default_factory=dict)
    temperature: float = 2.0
    epochs: int | None = None
    patience: int = 5
    batch: int | None = None
    rate: float | None = None
    seed: int = 0
    threads: int = 1
    every: int = 2
    """Of the layers of a teacher, every so many-th stays."""
    vectors: Path | None = None
    """A folder with a vector for each token, which a student of texts begins with."""


@dataclass(frozen=True)
class Subject:
    """What a student has to be like. `tokenizer`: for texts; None: a vocabulary is made of the transfer set. `teacher`:
    the path of the teacher, for kinds that are cut out of it.
    """

    signature: Signature
    target: Target
    tokenizer: Path | None = None
    max_tokens: int = 256
    teacher: Path | None = None


@dataclass(frozen=True)
class Trained:
    """What training came to."""

    best_epoch: int
    stopped_early: bool
    epochs: list[Epoch]


class Student(Protocol):
    """One student, before, during and after training."""

    about: str
    """One line for people: its layers and sizes."""
    parameters: int
    losses: dict[str, float]
    """Those that it is trained by, known once it is made."""

    def fit(self, train: Part, stop: Part, told: Told) -> Trained:
        """Train it. `told` hears of every epoch."""
        ...

    def answer(self, rows: Sequence[Row]) -> Array:
        """What the trained student answers, float32 [rows, width], by the library that trained it."""
        ...

    def write(self, folder: Path) -> str:
        """Write what is served, and return the model file's name. Raises `SetupError` where that cannot be."""
        ...


def needed(what: str, extra: str, error: ImportError) -> SetupError:
    """The one error of a missing extra."""
    return SetupError(f"--student {what} needs a library that is not here ({error}); pip install 'forebay[{extra}]'")


def is_text(signature: Signature) -> bool:
    """Whether a row is one text."""
    inputs = signature.inputs
    return len(inputs) == 1 and inputs[0].datatype == "BYTES" and inputs[0].row_shape in ((), (1,))


def takes_tokens(signature: Signature) -> bool:
    """Whether a row is the ids of tokens, with a mask or without."""
    return any(spec.name == "input_ids" and spec.row_shape == (-1,) for spec in signature.inputs)


def described(signature: Signature) -> str:
    """Inputs for messages."""
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in signature.inputs)


Module = Any
"""A torch module: torch comes with an extra and has no types here."""
