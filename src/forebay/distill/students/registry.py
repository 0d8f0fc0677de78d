"""The kinds of students by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from forebay.core.errors import SetupError
from forebay.distill.students.port import Plan, Student, Subject
from forebay.models.signature import Signature

KINDS: Final = ("static-embedding", "text-cnn", "every-nth-layer", "cnn", "linear", "tree")
OF_TEXTS: Final = ("static-embedding", "text-cnn")
"""These may begin with vectors of others."""
_FACTORY = "FILE.py:FACTORY of a torch module"


def check_kind(kind: str) -> None:
    """Raises `SetupError` for what is no kind of student, before anything else is done."""
    head, colon, _ = kind.rpartition(":")
    if colon and head.endswith(".py"):
        if not Path(head).is_file():
            raise SetupError(f"--student {kind}: there is no file {head!r} (looked in {Path.cwd()})")
        _check_torch(kind)
        return
    if kind not in KINDS:
        raise SetupError(f"--student {kind}: there is no such student; there are {', '.join(KINDS)}, and {_FACTORY}")
    if kind in ("static-embedding", "text-cnn", "every-nth-layer", "cnn"):
        _check_torch(kind)


def check_vectors(kind: str, vectors: Path | None) -> None:
    """Raises `SetupError` where a student has no use for vectors, or the folder has none."""
    if vectors is None:
        return
    if kind not in OF_TEXTS:
        raise SetupError(
            f"--vectors {vectors} goes with --student {' or '.join(OF_TEXTS)}, not with {kind}; leave it away"
        )
    from forebay.distill.students.vectors import read_vectors

    read_vectors(vectors)


def _check_torch(kind: str) -> None:
    lacking = [library for library in ("torch", "onnx", "onnxscript") if find_spec(library) is None]
    if lacking:
        raise SetupError(
            f"--student {kind} is trained by torch and written as ONNX, and {', '.join(lacking)} is not here; "
            "pip install 'forebay[torch,optimize]', or use "
            "linear or tree, which need 'forebay[trees,optimize]'"
        )


def check_suits(kind: str, signature: Signature, teacher: Path | None) -> None:
    """Raises `SetupError` for a student that cannot take what the teacher takes, before the teacher is asked.
    `teacher`: its folder, where it is a Hugging Face one."""
    if kind in ("linear", "tree"):
        from forebay.distill.students.classic import check_numbers

        check_numbers(kind, signature)
    elif kind in OF_TEXTS:
        from forebay.distill.students.static_embedding import check_texts

        check_texts(kind, signature)
    elif kind == "every-nth-layer":
        from forebay.distill.students.layers import check_bert

        check_bert(teacher, signature)
    elif kind == "cnn":
        from forebay.distill.students.convolution import check_pictures

        check_pictures(signature)
    else:
        from forebay.distill.students.custom import check_tensors

        check_tensors(kind, signature)


def open_student(kind: str, subject: Subject, plan: Plan) -> Student:
    """A student of this kind for this teacher. Raises `SetupError` where it does not suit it."""
    makers: Mapping[str, Callable[[], Student]] = {
        "static-embedding": lambda: _of_texts(subject, plan, spans=False),
        "text-cnn": lambda: _of_texts(subject, plan, spans=True),
        "every-nth-layer": lambda: _layers(subject, plan),
        "cnn": lambda: _convolution(subject, plan),
        "linear": lambda: _linear(subject, plan),
        "tree": lambda: _tree(subject, plan),
    }
    return makers[kind]() if kind in makers else _custom(kind, subject, plan)


def _of_texts(subject: Subject, plan: Plan, *, spans: bool) -> Student:
    from forebay.distill.students.neural import NeuralStudent
    from forebay.distill.students.static_embedding import StaticEmbedding

    return NeuralStudent(StaticEmbedding(subject, spans=spans, vectors=plan.vectors), subject, plan)


def _layers(subject: Subject, plan: Plan) -> Student:
    from forebay.distill.students.layers import FewerLayers
    from forebay.distill.students.neural import NeuralStudent

    return NeuralStudent(FewerLayers(subject, plan.every), subject, plan)


def _convolution(subject: Subject, plan: Plan) -> Student:
    from forebay.distill.students.convolution import Convolution
    from forebay.distill.students.neural import NeuralStudent

    return NeuralStudent(Convolution(subject), subject, plan)


def _linear(subject: Subject, plan: Plan) -> Student:
    from forebay.distill.students.classic import Linear

    return Linear(subject, plan)


def _tree(subject: Subject, plan: Plan) -> Student:
    from forebay.distill.students.classic import Tree

    return Tree(subject, plan)


def _custom(kind: str, subject: Subject, plan: Plan) -> Student:
    from forebay.distill.students.custom import Custom
    from forebay.distill.students.neural import NeuralStudent

    return NeuralStudent(Custom(kind, subject), subject, plan)
