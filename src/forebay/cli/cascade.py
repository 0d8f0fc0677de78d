"""`forebay cascade`: a teacher, a student and rows in; how sure the student must be to answer in its place out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from rich.console import Console

from forebay.agreement.confidence import Form, classes_of, confidence_of
from forebay.cascade.policy import Calibration
from forebay.cascade.threshold import Curve, NoThresholdError, TooFewRowsError, check_rows, choose, curve
from forebay.cli.answers import (
    answers_of,
    check_alike,
    check_may_be_classes,
    compared_in,
    find_class_output,
    no_classes,
    progress_bar,
)
from forebay.cli.curves import check_plot, drawn, parse_share
from forebay.cli.sample_rows import read_rows
from forebay.cli.written import check_writable, write_file
from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.embedding.engine import open_alone


class Measured(NamedTuple):
    """Both models' answers to the same rows. `output`, `form`: by what it is told how sure the student is."""

    output: str
    form: Form
    confidences: Array
    agrees: Array
    student_name: str
    teacher: str
    student: str


def cascade(
    teacher: Annotated[
        str, typer.Argument(help="The large model, as served: a model file, FILE.py:CLASS, or a folder.")
    ],
    student: Annotated[str, typer.Argument(help="The small one, with the same inputs and outputs.")],
    samples: Annotated[
        Path,
        typer.Option(
            help="Rows that the student was not trained with: .npz, .jsonl, .csv or .txt; labels are not used."
        ),
    ],
    agreement: Annotated[
        str, typer.Option(help="Share of all answers that must be of the same class as the teacher's.")
    ] = "99%",
    output: Annotated[
        str | None,
        typer.Option(
            help="The output that holds probabilities or logits. Default: the first that sums to 1 or is called so."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the calibration here, for the teacher's `cascade`.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write what the student answers, by threshold, as a picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
) -> None:
    """Find how sure a small model must be to answer in place of a large one.

    Both models answer all rows. The threshold is the lowest at which the share of answers of the same class is kept,
    with 95 % confidence, where the teacher answers what the student is not sure of. Then serve both: requests to the
    teacher go to the student first.

    Examples:

      forebay cascade sentiment.py:Sentiment small/ --samples held-out.csv --agreement 99% --out cascade.json

      forebay serve sentiment.py:Sentiment small/ --set sentiment.cascade=cascade.json
    """
    wanted = parse_share("--agreement", agreement)
    # What cannot be written is told before the work, not after.
    check_writable("--out", out)
    if plot is not None:
        check_plot(plot)
    measured = asyncio.run(_measure(teacher, student, samples, output, wanted))
    found = curve(measured.confidences, measured.agrees)
    if plot is not None:
        _plot(found, wanted, plot)
    try:
        chosen = choose(found, wanted)
    except NoThresholdError as error:
        raise SetupError(f"--samples {samples}: {error}") from None
    calibration = Calibration(
        student_name=measured.student_name,
        threshold=chosen.threshold,
        agreement=wanted,
        upper_bound=chosen.upper_bound,
        rows=found.rows,
        answered=chosen.answered,
        disagreed=chosen.disagreed,
        output=measured.output,
        form=measured.form,
        teacher=measured.teacher,
        student=measured.student,
    )
    document = msgspec.json.format(msgspec.json.encode(calibration)) + b"\n"
    if out is not None:
        write_file("--out", out, document)
    if as_json:
        typer.echo(document, nl=False)
    else:
        _print(calibration, found)


async def _measure(teacher: str, student: str, samples: Path, output: str | None, wanted: float) -> Measured:
    async with open_alone(teacher, student, environ=os.environ) as engine:
        if len(engine.models) != 2:
            named = ", ".join(engine.models)
            raise SetupError(f"a cascade has a teacher and a student, and {teacher} and {student} hold {named}")
        of_teacher, of_student = engine.models
        check_alike(engine, of_teacher, of_student)
        signature = engine.signature(of_teacher)
        check_may_be_classes(signature, output)
        rows = read_rows(samples, signature)
        try:
            check_rows(len(rows), wanted)
        except TooFewRowsError as error:
            raise SetupError(f"--samples {samples}: {error}") from None
        with progress_bar() as progress:
            one = await answers_of(engine, of_teacher, rows, progress, f"teacher {of_teacher}")
            other = await answers_of(engine, of_student, rows, progress, f"student {of_student}")
        found = find_class_output(signature, other, output, rows, of_student)
        if found is None:
            raise no_classes(signature, output)
        chosen, form = found
        rows.check_finite(of_teacher, chosen, compared_in(one, chosen, of_teacher))
        classes = [classes_of(answers[chosen], form) for answers in (one, other)]
        _check_classes(samples, classes[0], of_teacher, chosen, wanted)
        return Measured(
            output=chosen,
            form=form,
            confidences=confidence_of(other[chosen], form),
            agrees=classes[0] == classes[1],
            student_name=of_student,
            teacher=engine.digest(of_teacher),
            student=engine.digest(of_student),
        )


def _check_classes(samples: Path, classes: Array, teacher: str, output: str, wanted: float) -> None:
    """Raises `SetupError` where a student that says one thing to everything would be good enough."""
    found, counts = np.unique(classes, return_counts=True)
    commonest = int(counts.max())
    if len(found) > 1 and commonest / len(classes) < wanted:
        return
    raise SetupError(
        f"--samples {samples}: by output {output!r} {teacher} says class {found[counts.argmax()]} to {commonest} of "
        f"{len(classes)} rows ({commonest / len(classes):.2%}), and --agreement wants {wanted:.2%}: one answer to "
        "everything would do, so the rows tell nothing of a student. Give more rows of other classes, or want more "
        "agreement; numbers that are no classes, such as prices, take no cascade"
    )


def _print(found: Calibration, points: Curve) -> None:
    console = Console(highlight=False, soft_wrap=True)
    of = f"output {found.output}, {found.form}"
    console.print(f"threshold  [bold]{found.threshold:.4f}[/bold] (probability of the class chosen; {of})")
    console.print(f"student    answers {found.answered} of {found.rows} rows ({found.answered / found.rows:.1%})")
    console.print(
        f"agreement  {1 - found.disagreed / found.rows:.2%} of all answers; at least {1 - found.upper_bound:.2%} with "
        f"95 % confidence, {found.agreement:.4g} wanted"
    )
    last = points.points[-1]
    console.print(f"without a teacher they would agree in {1 - last.disagreed / found.rows:.2%}")


def _plot(found: Curve, agreement: float, path: Path) -> None:
    shares = [point.answered / found.rows for point in found.points]
    agreed = [1 - point.disagreed / found.rows for point in found.points]
    bounds = [1 - point.upper_bound for point in found.points]
    with drawn(path) as axes:
        axes.plot(shares, agreed, color="seagreen", label="agreement")
        axes.plot(shares, bounds, color="seagreen", ls=":", label="at least, with 95 % confidence")
        axes.axhline(agreement, color="black", lw=0.8, ls="--", label="wanted")
        low = max(0.0, min(agreement, *bounds) - 0.02)
        axes.set(xlabel="share of rows that the student answers", ylabel="agreement with teacher", ylim=(low, 1.002))
