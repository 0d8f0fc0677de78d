"""`forebay variants`: a model and faster forms of it in; how accurate and how fast each is out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from forebay.agreement.compare import Judge, is_one_number, same_rows
from forebay.agreement.confidence import classes_of
from forebay.cli.answers import (
    answers_of,
    check_alike,
    check_output,
    compared_in,
    find_class_output,
    is_called_classes,
    progress_bar,
    rates_of,
)
from forebay.cli.curves import parse_share
from forebay.cli.sample_labels import check_related, not_used, places_of
from forebay.cli.sample_rows import SampleRows, read_rows
from forebay.cli.written import check_writable, write_file
from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array
from forebay.embedding.engine import EmbeddedEngine, open_alone
from forebay.models.signature import Signature
from forebay.variants.policy import Measured, MeasuredVariant

LEAST_ROWS: Final = 100
LEAST_COSINE: Final = 0.99
LEAST_SPEEDUP: Final = 1.05
"""So many times as fast as a more accurate form is one that is kept: less may be chance."""


@dataclass(frozen=True)
class _LeftOut:
    """A form that stands in the way of a better one."""

    form: MeasuredVariant
    beside: MeasuredVariant
    """The fastest of the model itself and of what is kept before it."""

    @property
    def ratio(self) -> float:
        return self.form.rows_per_s / self.beside.rows_per_s


def variants(
    model: Annotated[str, typer.Argument(help="The model itself, as served: a model file, or FILE.py:CLASS.")],
    forms: Annotated[list[str], typer.Argument(help="Faster forms of it, with the same inputs and outputs.")],
    samples: Annotated[
        Path,
        typer.Option(help="Rows that none was made with: .npz, .jsonl, .csv or .txt; with labels if any."),
    ],
    output: Annotated[
        str | None,
        typer.Option(help="The output that is compared. Default: one of classes, else of numbers."),
    ] = None,
    tolerance: Annotated[
        str,
        typer.Option(
            help="Where the output is one number a row: how far from the model's own it may be, as a share of the "
            "standard deviation of these."
        ),
    ] = "10%",
    out: Annotated[Path | None, typer.Option(help="Write what was found here, for the model's `variants`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Measure how accurate and how fast other forms of a model are, to let them answer under load.

    With labels (the places of classes, or their names) accuracy is by these, else it is agreement with the model
    itself. Forms are put in order, the most accurate first; one that is not faster than a more accurate one, by 5 %, is
    left out.

    Examples:

      forebay variants net.onnx net-int8.onnx small.onnx --samples held-out.npz --out variants.json

      forebay serve net.onnx net-int8.onnx small.onnx --set net.variants=variants.json
    """
    allowed = parse_share("--tolerance", tolerance)
    check_writable("--out", out)
    measured, left_out = asyncio.run(_measure(model, forms, samples, output, allowed))
    document = msgspec.json.format(msgspec.json.encode(measured)) + b"\n"
    if out is not None:
        write_file("--out", out, document)
    if as_json:
        typer.echo(document, nl=False)
    else:
        _print(measured)
    # On stderr: what is asked for as JSON is kept apart from what is said of it.
    console = Console(stderr=True, highlight=False)
    for one in left_out:
        console.print(_why(one), soft_wrap=True, markup=False)


async def _measure(
    model: str, forms: Sequence[str], samples: Path, output: str | None, tolerance: float
) -> tuple[Measured, list[_LeftOut]]:
    async with open_alone(model, *forms, environ=os.environ) as engine:
        first, *others = engine.models
        for other in others:
            check_alike(engine, first, other)
        signature = engine.signature(first)
        _check_numbers(signature, output)
        rows = read_rows(samples, signature)
        if len(rows) < LEAST_ROWS:
            raise SetupError(f"--samples {samples}: {len(rows)} rows that differ say little; give {LEAST_ROWS} or more")
        with progress_bar() as progress:
            answers: dict[str, Mapping[str, Array]] = {}
            asked_s: dict[str, float] = {}
            for name in engine.models:
                began = time.monotonic()
                answers[name] = await answers_of(engine, name, rows, progress, name)
                asked_s[name] = time.monotonic() - began
                if name == first:
                    chosen, judge = _compared_by(signature, answers[first], output, rows, first)
                rows.check_finite(name, chosen, compared_in(answers[name], chosen, name))
                if name == first:
                    most_apart = _most_apart(rows, judge, answers[first][chosen], first, chosen, tolerance)
                    labels = _labels(rows, judge, answers[first][chosen], first, engine.labels(first), chosen)
            rates = await rates_of(engine, rows.samples.rows, asked_s, progress)
        return _measured(engine, labels, answers, rates, chosen, judge, most_apart)


def _check_numbers(signature: Signature, wanted: str | None) -> None:
    """Raises `SetupError` where no output can be compared."""
    check_output(signature, wanted)
    chosen = [spec for spec in signature.outputs if wanted in (None, spec.name)]
    if not any(NUMPY_TYPES[spec.datatype].kind == "f" for spec in chosen):
        held = ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in signature.outputs)
        raise SetupError(
            f"{wanted or 'the outputs'}: variants are compared by an output of numbers (FP32), the models have {held}"
        )


def _compared_by(
    signature: Signature, answers: Mapping[str, Array], wanted: str | None, rows: SampleRows, model: str
) -> tuple[str, Judge]:
    """By which output forms are compared, and how, by the model's own answers."""
    found = find_class_output(signature, answers, wanted, rows, model)
    if found is not None:
        name, form = found
        # A number that is wanted may be a price as well as the logit of the second of two classes.
        if form == "probabilities" or is_called_classes(name) or not is_one_number(answers[name]):
            return found
    floats = [spec.name for spec in signature.outputs if NUMPY_TYPES[spec.datatype].kind == "f"]
    chosen = wanted or next((name for name in floats if name in answers), floats[0])
    return chosen, "numbers" if is_one_number(compared_in(answers, chosen, model)) else "vectors"


def _most_apart(rows: SampleRows, judge: Judge, answers: Array, model: str, output: str, tolerance: float) -> float:
    """How far apart numbers may be that say the same: a share of how much the model's own answers vary.

    Raises `SetupError` where they do not.
    """
    if judge != "numbers":
        return 0.0
    spread = float(np.std(answers.astype(np.float64)))
    if not spread:
        raise SetupError(
            f"--samples {rows.path}: {model} answers all {len(rows)} rows with the same number in output {output!r}, "
            "which tells nothing of other forms; give rows whose answers differ, or name another output with --output"
        )
    return tolerance * spread


def _measured(
    engine: EmbeddedEngine,
    labels: Array | None,
    answers: Mapping[str, Mapping[str, Array]],
    rates: Mapping[str, float],
    chosen: str,
    judge: Judge,
    most_apart: float,
) -> tuple[Measured, list[_LeftOut]]:
    first = engine.models[0]
    right = answers[first][chosen]

    def of(name: str) -> MeasuredVariant:
        values = answers[name][chosen]
        agreement = float(np.mean(same_rows(right, values, judge, LEAST_COSINE, most_apart)))
        accuracy = agreement
        if labels is not None and judge != "vectors" and judge != "numbers":
            accuracy = float(np.mean(classes_of(values, judge) == labels))
        return MeasuredVariant(
            name=name,
            digest=engine.digest(name),
            accuracy=accuracy,
            agreement=agreement,
            rows_per_s=rates[name],
        )

    itself = of(first)
    kept: list[MeasuredVariant] = []
    left_out: list[_LeftOut] = []
    for one in sorted(map(of, engine.models[1:]), key=lambda one: -one.accuracy):
        fastest = max([itself, *kept], key=lambda before: before.rows_per_s)
        if one.rows_per_s >= LEAST_SPEEDUP * fastest.rows_per_s:
            kept.append(one)
        else:
            left_out.append(_LeftOut(one, fastest))
    if not kept:
        told = ", ".join(f"{one.form.name} {one.ratio:.2f}x" for one in left_out)
        raise SetupError(
            f"none is faster than {first} by 5 % or more, which does {itself.rows_per_s:.0f} rows a second: {told}"
        )
    found = Measured(
        model=itself,
        variants=tuple(kept),
        rows=len(right),
        labelled=labels is not None,
        output=chosen,
        judge=judge,
        least_cosine=LEAST_COSINE,
        most_apart=most_apart,
    )
    return found, left_out


def _why(left: _LeftOut) -> str:
    form, beside = left.form, left.beside
    return (
        f"{form.name} is left out: accurate in {form.accuracy:.2%} at {form.rows_per_s:.0f} rows a second, where "
        f"{beside.name} is in {beside.accuracy:.2%} at {beside.rows_per_s:.0f}; a form has to be faster "
        "by 5 %"
    )


def _labels(
    rows: SampleRows, judge: Judge, answers: Array, model: str, names: Sequence[str], output: str
) -> Array | None:
    """The places of classes that the labels are; None: there are none, or they are none, which is said.

    Raises `SetupError` where they have nothing to do with the model's own answers.
    """
    labels = rows.samples.labels
    if not labels:
        return None
    console = Console(stderr=True, highlight=False)
    if judge == "vectors" or judge == "numbers":
        console.print(f"labels are not used: output {output!r} is compared as {judge}", soft_wrap=True, markup=False)
        return None
    width = max(2, answers.reshape(len(answers), -1).shape[1])
    places = places_of(labels, names, width)
    if places is None:
        console.print(not_used(labels, names, width, model, output), soft_wrap=True, markup=False)
    else:
        check_related(rows.path, places, classes_of(answers, judge), model, output)
    return places


def _print(found: Measured) -> None:
    console = Console(highlight=False)
    what = "accuracy" if found.labelled else "agreement"
    table = Table("", what, "agrees", "rows/s", "speed", box=None, pad_edge=False)
    for one in (found.model, *found.variants):
        speed = f"{one.rows_per_s / found.model.rows_per_s:.2f}x"
        table.add_row(one.name, f"{one.accuracy:.2%}", f"{one.agreement:.2%}", f"{one.rows_per_s:.0f}", speed)
    console.print(table)
    console.print(f"{found.rows} rows, by output {found.output} ({found.judge})")
