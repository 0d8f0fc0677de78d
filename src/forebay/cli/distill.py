"""`forebay distill`: a served model and rows in, a small student that answers as it does out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forebay.cli.distill_lesson import Given
from forebay.cli.distill_progress import DistillProgress
from forebay.cli.distill_teacher import give_way, told_as_setup
from forebay.cli.stopping import INTERRUPTED, ended_by_signals
from forebay.core.errors import SetupError
from forebay.distill.judge import Asked
from forebay.distill.losses import parse_losses
from forebay.distill.report import Report, encoded
from forebay.distill.run import Order
from forebay.distill.run import distill as run_distillation
from forebay.distill.students.port import Plan
from forebay.distill.students.registry import check_kind, check_vectors
from forebay.distill.target import Wanted
from forebay.optimize.placing import PAGE_FILE, REPORT_FILE
from forebay.optimize.texts import MOST_TOKENS

EXIT_NOTHING = 1
"""No student passed the gate; the report is written all the same."""
_PIPED_COLUMNS = 160

TeacherArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TEACHER",
        help="As for forebay serve, the folder of a repository's model, or a Hugging Face folder.",
        show_default=False,
    ),
]
StudentKind = Annotated[
    str,
    typer.Option(
        "--student",
        help="static-embedding, text-cnn, every-nth-layer, cnn, linear, tree, or FILE.py:FACTORY of a torch module.",
    ),
]
SamplesFile = Annotated[
    Path | None, typer.Option(help="Rows as they are in use: .npz, .jsonl, .csv or .txt; labels are not needed.")
]
FromLog = Annotated[
    str | None,
    typer.Option("--from-log", metavar="NAME", help="Rows that the server logged of this model, with its answers."),
]
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", metavar="NAME", help="Of the log, only this API key; may be repeated.")
]
OutputsFile = Annotated[
    Path | None, typer.Option(help="In place of TEACHER and rows: a .npz of both, as forebay log export writes it.")
]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", help="Rows to judge by, best with labels; never learned. Default: held-out ones."),
]
VectorsFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="For students of texts: begin with the vectors of a Hugging Face or Model2Vec folder."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the student and the report.")]
LossWeights = Annotated[
    str | None,
    typer.Option("--loss", metavar="NAME=WEIGHT,...", help="kl, mse, cosine, labels. Default: what suits the output."),
]
Classes = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Names of the classes, in the order of the output.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder for the teacher's answers, and of the log. Default: as for serve.")
]


def distill(
    teacher: TeacherArgument = None,
    student: StudentKind = "static-embedding",
    samples: SamplesFile = None,
    log_of: FromLog = None,
    tenants: Tenants = None,
    teacher_outputs: OutputsFile = None,
    test: TestFile = None,
    out: Out = Path("distilled"),
    name: Annotated[str | None, typer.Option(help="The student's name. Default: the teacher's.")] = None,
    loss: LossWeights = None,
    temperature: Annotated[float, typer.Option(help="Softens both sides of kl.")] = 2.0,
    epochs: Annotated[int | None, typer.Option(help="Most epochs. Default: the student's own.")] = None,
    patience: Annotated[int, typer.Option(help="Epochs without a better one, before it stops.")] = 5,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate. Default: the student's own.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of a training step. Default: the student's own.")] = None,
    every: Annotated[int, typer.Option(help="For every-nth-layer: which layers stay.")] = 2,
    augment: Annotated[
        int, typer.Option(help="So many texts are made of each text, for the teacher to answer too.")
    ] = 0,
    held_out: Annotated[
        float, typer.Option(help="Share of rows that are not learned: to stop by, and to judge by.")
    ] = 0.1,
    output: Annotated[str | None, typer.Option(help="The output that is learned; others are left out.")] = None,
    task: Annotated[
        Literal["auto", "classes", "vectors", "numbers"], typer.Option(help="What the output's numbers are.")
    ] = "auto",
    classes: Classes = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json for texts. Default: beside the vectors or the teacher, else words."),
    ] = None,
    vectors: VectorsFolder = None,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut.")] = MOST_TOKENS,
    min_agreement: Annotated[
        float, typer.Option(help="Least agreement with the teacher: same classes, mean cosine, variance explained.")
    ] = 0.9,
    min_speedup: Annotated[float, typer.Option(help="Least speed, in units of the teacher's.")] = 1.0,
    batch_tolerance: Annotated[
        float, typer.Option(help="Difference that counts as the same, as a share of the largest value.")
    ] = 1e-4,
    rounds: Annotated[int, typer.Option(help="Timed rounds, teacher and student in turns; 0: it is not timed.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the split, the training and what is made up; below 2^32.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of training, and of one instance when it is timed.")] = 1,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file. Default: ./forebay.toml, if there.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train a small student that answers as a served model does, with proof.

    The teacher runs in our own engine, at low priority, and answers every row
    once: its answers are kept on disk, and a run that was killed goes on where
    it was. The student is trained until it agrees no better on rows that are
    held out, written as ONNX, and measured against the teacher on other rows:
    agreement, accuracy where there are labels, calibration, speed. What passes
    is written to OUT as a folder for `forebay serve OUT`.

    Exit code 0: there is a student to serve. 1: it did not pass. 2: it could not
    begin. 70: a fault of Forebay's own. 130: stopped.

    Examples:

      forebay distill sentiment.py:Sentiment --samples texts.txt --student static-embedding --test labelled.csv

      forebay distill digits.onnx --samples digits.npz --student cnn --loss kl=1,labels=0.5 --temperature 4

      forebay distill support.py:Support --from-log support --student static-embedding -o student

      forebay distill support.py:Support --samples texts.txt --student text-cnn --vectors all-MiniLM-L6-v2/

      forebay distill --teacher-outputs logged.npz --student tree --min-agreement 0.95
    """
    check_kind(student)
    plan = Plan(
        losses={} if loss is None else parse_losses(loss),
        temperature=_above("--temperature", temperature),
        epochs=None if epochs is None else _at_least("--epochs", epochs, 1),
        patience=_at_least("--patience", patience, 1),
        batch=None if batch is None else _at_least("--batch", batch, 2),
        rate=None if rate is None else _above("--rate", rate),
        seed=_as_seed(seed),
        threads=_at_least("--threads", threads, 1),
        every=_at_least("--every", every, 2),
        vectors=vectors,
    )
    gate = Asked(
        min_agreement=_share("--min-agreement", min_agreement),
        min_speedup=_from_zero("--min-speedup", min_speedup),
        batch_tolerance=_from_zero("--batch-tolerance", batch_tolerance),
        rounds=_at_least("--rounds", rounds, 0),
        threads=threads,
    )
    given = Given(
        teacher, samples, log_of, tuple(tenants or ()), teacher_outputs, test, name, tokenizer, vectors,
        _at_least("--max-tokens", max_tokens, 1), config_file, data_dir,
    )  # fmt: skip
    given.check()
    check_vectors(student, vectors)
    named = () if classes is None else tuple(part.strip() for part in classes.split(","))
    if len(set(named)) < len(named) or (named and (len(named) < 2 or not all(named))):
        raise SetupError(
            f"--classes {classes}: write two names or more, each once, in the order of the output: A,B,..."
        )
    order = Order(
        kind=student,
        out=out,
        plan=plan,
        wanted=Wanted(output, task, named),
        gate=gate,
        held_out=_share("--held-out", held_out),
        made_up=_at_least("--augment", augment, 0),
    )
    _run(order, given, as_json)


def _run(order: Order, given: Given, as_json: bool) -> None:
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPED_COLUMNS)
    give_way()
    try:
        with (
            ended_by_signals(),
            told_as_setup(),
            DistillProgress(console) as progress,
            given.lesson(progress) as lesson,
        ):
            report = run_distillation(order, lesson, progress)
    except KeyboardInterrupt:
        kept = "" if given.outputs else "; what the teacher has answered is kept and need not be asked again"
        console.print(f"stopped{kept}; training begins anew the next time", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(encoded(report), nl=False)
    _print(console, report, order.out)
    if not report.passed:
        raise typer.Exit(EXIT_NOTHING)


def _as_seed(seed: int) -> int:
    """What torch and scikit-learn both take."""
    if not 0 <= seed < 1 << 32:
        raise SetupError(f"--seed {seed}: it must be from 0 to {(1 << 32) - 1}")
    return seed


def _at_least(flag: str, value: int, least: int) -> int:
    if value < least:
        raise SetupError(f"{flag} {value}: must be {least} or more")
    return value


def _above(flag: str, value: float) -> float:
    if not 0.0 < value < math.inf:
        raise SetupError(f"{flag} {value:g}: must be a number above 0")
    return value


def _from_zero(flag: str, value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise SetupError(f"{flag} {value:g}: must be a number from 0 on")
    return value


def _share(flag: str, value: float) -> float:
    if not 0.0 < value < 1.0:
        raise SetupError(f"{flag} {value:g}: write a share between 0 and 1")
    return value


def _print(console: Console, report: Report, out: Path) -> None:
    quality, gate, where = report.quality, report.gate, escape(str(out))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (f"{quality.rows} rows not seen before", "teacher", "student"):
        table.add_column(column, justify="right" if column in ("teacher", "student") else "left", no_wrap=True)
    table.add_row("agreement", "", f"{quality.agreement:.2%}")
    if quality.teacher_accuracy is not None and quality.student_accuracy is not None:
        table.add_row("accuracy", f"{quality.teacher_accuracy:.2%}", f"{quality.student_accuracy:.2%}")
        if quality.share_kept is not None:
            table.add_row("share of the teacher's accuracy", "", f"{quality.share_kept:.2%}")
    if quality.teacher_calibration_error is not None and quality.student_calibration_error is not None:
        table.add_row(
            "calibration error", f"{quality.teacher_calibration_error:.4f}", f"{quality.student_calibration_error:.4f}"
        )
    if gate.speed is not None:
        teachers = f"{gate.teacher_rows_per_s:,.0f}" if gate.teacher_rows_per_s is not None else ""
        table.add_row("rows a second, one instance", teachers, f"{gate.speed.rows_per_s:,.0f}")
    console.print(table)
    transfer = report.transfer
    left_out = [
        f"{count:,} {what}"
        for count, what in (
            (transfer.duplicates, "that are the same as others"),
            (transfer.passed_over, "of the log that do not fit the model as it is now"),
            (transfer.failed, "that the teacher did not answer"),
        )
        if count
    ]
    if left_out:
        console.print(f"rows left out: {', '.join(left_out)}", soft_wrap=True)
    if gate.reason is not None:
        console.print(f"[red]{gate.reason}[/]: {escape(gate.detail)}", soft_wrap=True)
        console.print(f"the student is not served. See {where}/{PAGE_FILE}", soft_wrap=True)
        return
    faster = f", {gate.speed.speedup:.1f} times as fast" if gate.speed and gate.teacher_rows_per_s else ""
    console.print(
        f"[bold]{report.name}[/] is in {where}{faster} ({report.seconds:.0f} s); serve it with: forebay serve {where}",
        soft_wrap=True,
    )
    if gate.doubt:
        console.print(f"[yellow]in doubt[/]: {escape(gate.doubt)}", soft_wrap=True)
    console.print(f"the evidence: {where}/{PAGE_FILE}, {where}/{REPORT_FILE}", soft_wrap=True)
