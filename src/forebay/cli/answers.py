"""Several models asked the same rows, as they are served: what they say, and how fast they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from forebay.agreement.compare import is_one_number
from forebay.agreement.confidence import Form, form_of
from forebay.cli.sample_rows import SampleRows
from forebay.cli.turns import ROUNDS, in_turns, turn
from forebay.core.errors import ForebayError, SetupError
from forebay.core.tensors import NUMPY_TYPES, Array
from forebay.embedding.engine import EmbeddedEngine
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row, batch_of, length_of
from forebay.optimize.speed import spread

_ROWS: Final = 32
_AT_ONCE: Final = 8
_TIMEOUT_S: Final = 600.0
_CLASS_WORDS: Final = ("logit", "score", "class", "prob")


def progress_bar() -> Progress:
    """On stderr, gone at the end; where that is no terminal `answers_of` writes a line a model."""
    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def says(progress: Progress, text: str) -> None:
    """A line in place of a bar, where nobody sees one."""
    if progress.disable:
        progress.console.print(text, soft_wrap=True, markup=False)


async def answers_of(
    engine: EmbeddedEngine, name: str, asked: SampleRows, progress: Progress, told: str
) -> dict[str, Array]:
    """Ask one model all rows, some at a time, near each other in length: the outputs by name, in the order of the
    rows; without those whose rows differ in shape, which nobody could compare.

    Raises `SetupError` that names the sample which the model has no answer to.
    """
    rows = asked.samples.rows
    says(progress, f"asking {told} about {len(rows):,} rows")
    task = progress.add_task(told, total=len(rows))
    places = _batches(rows)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def answer(some: Sequence[int]) -> dict[str, Array]:
        return await engine.infer(batch_of([rows[place] for place in some]), model=name, timeout_s=_TIMEOUT_S)

    async def ask(some: Sequence[int]) -> dict[str, Array]:
        async with limit:
            try:
                found = await answer(some)
            except ForebayError:
                alone = [await _answer_alone(answer, place, asked, name) for place in some]
                found = _joined(alone)
        progress.advance(task, len(some))
        return found

    parts = await asyncio.gather(*map(ask, places))
    back = np.argsort(np.concatenate([np.asarray(some) for some in places]))
    return {output: values[back] for output, values in _joined(parts).items()}


async def _answer_alone(
    answer: Callable[[Sequence[int]], Awaitable[dict[str, Array]]], place: int, asked: SampleRows, name: str
) -> dict[str, Array]:
    """A row of a batch that was not answered; most of these would be."""
    try:
        return await answer([place])
    except ForebayError as error:
        raise SetupError(
            f"--samples {asked.path}, sample {asked.numbers[place]}: {name} has no answer to it: {error.message}; "
            "leave such samples out, or look at the model"
        ) from None


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One below the other, those outputs whose rows are of one shape."""
    return {
        output: np.concatenate([part[output] for part in parts])
        for output in parts[0]
        if all(output in part and part[output].shape[1:] == parts[0][output].shape[1:] for part in parts)
    }


def compared_in(answers: Mapping[str, Array], output: str, model: str) -> Array:
    """The answers in one output. Raises `SetupError` where `answers_of` had to leave it out."""
    if output not in answers:
        others = f", such as {', '.join(answers)}" if answers else ""
        raise SetupError(
            f"output {output!r} of {model} differs in shape from row to row, and cannot be compared; name an output of "
            f"one shape with --output{others}"
        )
    return answers[output]


async def rates_of(
    engine: EmbeddedEngine, rows: Sequence[Row], asked_s: Mapping[str, float], progress: Progress
) -> dict[str, float]:
    """Rows a second of all models, under as much load as makes full batches. `asked_s`: how long each has been at work
    already."""
    says(progress, f"timing {', '.join(engine.models)} in turns")
    task = progress.add_task("timing", total=ROUNDS * len(engine.models))
    batches = [batch_of([rows[place] for place in some]) for some in spread(_full(_batches(rows)), _AT_ONCE)]

    async def one_turn(name: str) -> float:
        rate = await turn(lambda batch: engine.infer(batch, model=name, timeout_s=_TIMEOUT_S), batches, _AT_ONCE)
        progress.advance(task)
        return rate

    return await in_turns(engine.models, one_turn, asked_s)


def _batches(rows: Sequence[Row]) -> list[list[int]]:
    """Places of rows, those of a batch near each other in length."""
    order = sorted(range(len(rows)), key=lambda place: length_of(rows[place]))
    return [order[begin : begin + _ROWS] for begin in range(0, len(order), _ROWS)]


def _full(batches: Sequence[list[int]]) -> Sequence[list[int]]:
    """Without the last one, where that is smaller than the others."""
    return [some for some in batches if len(some) == _ROWS] or batches


def check_alike(engine: EmbeddedEngine, one: str, other: str) -> None:
    """Raises `SetupError` where two models differ in their inputs or outputs."""
    told = [
        ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in (*found.inputs, *found.outputs))
        for found in (engine.signature(one), engine.signature(other))
    ]
    if told[0] != told[1]:
        raise SetupError(
            f"{other} has {told[1]}, and {one} has {told[0]}; both must have the same names, datatypes and shapes"
        )


def check_output(signature: Signature, wanted: str | None) -> None:
    """Raises `SetupError` where the models have no such output."""
    names = [spec.name for spec in signature.outputs]
    if wanted is not None and wanted not in names:
        raise SetupError(f"--output {wanted}: the models have no such output; they have {', '.join(names)}")


def check_may_be_classes(signature: Signature, wanted: str | None) -> None:
    """Raises `SetupError` where no output can hold a number for each class, before any model is asked."""
    check_output(signature, wanted)
    chosen = [spec for spec in signature.outputs if wanted in (None, spec.name)]
    if not any(map(_may_be_classes, chosen)):
        raise no_classes(signature, wanted)


def no_classes(signature: Signature, wanted: str | None) -> SetupError:
    """The error of models without an output that a cascade needs."""
    may = [spec.name for spec in signature.outputs if wanted is None and _may_be_classes(spec)]
    hint = f"; if {' or '.join(may)} is one, say so: --output {may[0]}" if may else ""
    return SetupError(
        f"{wanted or ', '.join(spec.name for spec in signature.outputs)}: a cascade needs an output of one number for "
        "each class, probabilities or logits, of shape [rows, classes]; the models have "
        + ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in signature.outputs)
        + hint
    )


def _may_be_classes(spec: TensorSpec) -> bool:
    return NUMPY_TYPES[spec.datatype].kind == "f" and len(spec.row_shape) <= 1


def find_class_output(
    signature: Signature, answers: Mapping[str, Array], wanted: str | None, rows: SampleRows, model: str
) -> tuple[str, Form] | None:
    """The output that holds a number for each class, and its form, by a model's answers; None: there is none. Unless it
    is wanted it must look like one.

    Raises `SetupError` where it might be one that holds NaN, and where the wanted one differs in shape between rows.
    """
    if wanted is not None:
        compared_in(answers, wanted, model)
    for name in [spec.name for spec in signature.outputs if spec.name in answers] if wanted is None else [wanted]:
        if answers[name].ndim in (1, 2):
            rows.check_finite(model, name, answers[name])
        form = form_of(answers[name])
        if form is not None and (wanted is not None or looks_like_classes(name, form, answers[name])):
            return name, form
    return None


def looks_like_classes(name: str, form: Form, values: Array) -> bool:
    """Embeddings, labels of which several hold, and numbers that are measured have the shape of classes too: it is
    called so, or each row sums to 1."""
    if is_one_number(values):
        return is_called_classes(name)
    if form == "logits" and values.min() >= 0.0 and values.max() <= 1.0:
        return False
    return form == "probabilities" or is_called_classes(name)


def is_called_classes(name: str) -> bool:
    """Whether an output's name says that it holds a number for each class."""
    return any(word in name.lower() for word in _CLASS_WORDS)
