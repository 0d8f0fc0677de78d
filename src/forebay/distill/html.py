"""`report.html`: the report for people, one file without scripts, fonts or pictures from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from forebay.distill.plots import Line, lines
from forebay.distill.report import Report
from forebay.optimize.html import STYLE, table

_TEXT = 300
_MORE_STYLE = """
svg .line0{fill:none;stroke:#2a6fb0;stroke-width:2}svg .line1{fill:none;stroke:#c2504b;stroke-width:2}
svg .dot0{fill:#2a6fb0}svg .dot1{fill:#c2504b}
"""


def page(report: Report) -> str:
    """The whole page."""
    title = f"{report.name}: {report.student.kind}"
    quality = report.quality
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{_MORE_STYLE}</style></head><body>',
        f"<h1>{escape(report.name)}: a {escape(report.student.kind)} student</h1>",
        _verdict(report),
        "<h2>Teacher and student on rows that neither training nor stopping has seen</h2>",
        _quality(report),
        "<h2>Training</h2>",
        _curves(report),
        *(["<h2>Classes</h2>", _classes(report)] if quality.classes else []),
        "<h2>Rows a second by batch size</h2>",
        _speeds(report),
        "<h2>Where they disagree most</h2>",
        _disagreements(report),
        "<h2>What was measured, with what</h2>",
        _facts(report),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _verdict(report: Report) -> str:
    gate = report.gate
    if gate.reason is not None:
        return f'<p class="no"><b>Not served</b>: {gate.reason.replace("_", " ")}: {escape(gate.detail)}</p>'
    faster = f", {gate.speed.speedup:.1f} times as fast" if gate.speed and gate.teacher_rows_per_s else ""
    passed = f'<p class="ok">It passed the gate and is served: agreement {report.quality.agreement:.2%}{faster}.</p>'
    return passed + (f'<p class="no"><b>In doubt</b>: {escape(gate.doubt)}.</p>' if gate.doubt else "")


def _quality(report: Report) -> str:
    quality = report.quality
    rows = [
        ["agreement", "", f"{quality.agreement:.2%}"],
        ["agreement, lower end of the 95 % interval", "", f"{quality.agreement_low:.2%}"],
        ["agreement of a model that always says the same", "", f"{quality.constant:.2%}"],
    ]
    if quality.teacher_accuracy is not None and quality.student_accuracy is not None:
        rows.append(["accuracy", f"{quality.teacher_accuracy:.2%}", f"{quality.student_accuracy:.2%}"])
    if quality.share_kept is not None:
        rows.append(["share of the teacher's accuracy", "", f"{quality.share_kept:.2%}"])
    if quality.teacher_calibration_error is not None and quality.student_calibration_error is not None:
        rows.append(
            [
                "expected calibration error",
                f"{quality.teacher_calibration_error:.4f}",
                f"{quality.student_calibration_error:.4f}",
            ]
        )
    return table([f"{quality.rows} rows", "teacher", "student"], rows, numbers={1, 2})


def _curves(report: Report) -> str:
    student = report.student
    numbers = [epoch.number for epoch in student.epochs]
    loss = lines(
        numbers,
        [
            Line("loss", [epoch.loss for epoch in student.epochs]),
            Line("held-out loss", [epoch.held_out_loss for epoch in student.epochs]),
        ],
        "loss",
        student.best_epoch,
    )
    agreed = lines(
        numbers,
        [Line("agreement", [epoch.agreement for epoch in student.epochs])],
        "held-out agreement",
        student.best_epoch,
    )
    stopped = "stopped early" if student.stopped_early else "not stopped early"
    return f"<p>Epoch {student.best_epoch} of {len(numbers)} was kept; {stopped}.</p>{loss}{agreed}"


def _classes(report: Report) -> str:
    rows = [
        [escape(one.name), f"{one.rows}", f"{one.teacher:.2%}", f"{one.student:.2%}", f"{100 * one.drop:+.2f}"]
        for one in report.quality.classes
    ]
    truth = "label" if report.quality.teacher_accuracy is not None else "what the teacher says"
    return f"<p>Share of each class that is found; a class is the {truth}.</p>" + table(
        ["class", "rows", "teacher", "student", "points lost"], rows, numbers={1, 2, 3, 4}
    )


def _speeds(report: Report) -> str:
    found = report.gate.speed
    if found is None:
        return "<p>It was not timed.</p>"
    timed = report.gate.teacher_rows_per_s is not None
    rows = [
        [f"{one.rows}", f"{one.rows_per_s:,.0f}", f"{one.batch_ms:.3g}", f"{one.ratio:.1f}×" if timed else ""]
        for one in found.batches
    ]
    return table(["rows", "rows a second", "ms a batch", "of the teacher's"], rows, numbers={0, 1, 2, 3})


def _disagreements(report: Report) -> str:
    rows = [
        [
            escape(one.shown[:_TEXT]),
            f"{one.gap:.3g}",
            _said(one.teacher_class, one.teacher),
            _said(one.student_class, one.student),
            escape(one.label),
        ]
        for one in report.quality.disagreements
    ]
    return table(["row", "gap", "teacher", "student", "label"], rows, numbers={1}) if rows else "<p>Nowhere.</p>"


def _said(name: str, values: Sequence[float]) -> str:
    numbers = " ".join(f"{value:.3g}" for value in values)
    return f"{f'<b>{escape(name)}</b> ' if name else ''}<code>{numbers}</code>"


def _facts(report: Report) -> str:
    teacher, transfer, student, machine = report.teacher, report.transfer, report.student, report.machine
    losses = ", ".join(f"{name} {weight:g}" for name, weight in student.losses.items())
    facts = [
        ("teacher", f"{teacher.name} {teacher.model}; output {teacher.output}, learned as {teacher.form}"),
        ("digest of the teacher", teacher.digest),
        (
            "transfer set",
            f"{transfer.source}: {transfer.train} to train, {transfer.stop} to stop, {transfer.test} to judge"
            f"{f' ({transfer.test_source})' if transfer.test_source else ''}, seed {transfer.seed}; "
            f"{transfer.asked} asked, {transfer.known} known before; {transfer.duplicates} duplicates, "
            f"{transfer.passed_over} that do not fit the model and {transfer.failed} without an answer left out; "
            f"{transfer.made_up} made up",
        ),
        ("SHA-256 of the transfer set", transfer.sha256),
        ("student", f"{student.about}; {student.parameters:,} parameters, {student.size_bytes / 1e6:.2f} MB"),
        ("losses", f"{losses}; temperature {student.temperature:g}"),
        ("training", f"{student.train_s:.0f} s"),
        *((f"SHA-256 of {name}", digest) for name, digest in student.files.items()),
        ("gate", _gate(report)),
        ("processor", f"{machine.processor}, {machine.cores} cores; {machine.threads} threads an instance"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("when", f"{report.started_at}, {report.seconds:.0f} s"),
    ]
    return table(["", ""], [[escape(name), f"<code>{escape(value)}</code>"] for name, value in facts], numbers=set())


def _gate(report: Report) -> str:
    gate = report.gate
    found = gate.invariance
    exported = f"{gate.export_error:.1e}" if gate.export_error is not None else "not measured"
    company = f"{found.max_error:.1e} of {found.tolerance:.1e}" if found is not None else "not measured"
    return (
        f"agreement at least {gate.min_agreement:g}, speed at least {gate.min_speedup:g}; "
        f"file against what was trained {exported}; a row alone and in a batch {company}"
    )
