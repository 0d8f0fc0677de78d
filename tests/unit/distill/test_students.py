"""Students that learn: what they answer, that their graphs answer the same, that the seed decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from tests.unit.distill.lessons import linear_answers, numbers, numeric_subject, part, texts
from tests.unit.optimize.test_folders import bert_weights, folder_of

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.measures import agreement
from forebay.distill.report import Epoch
from forebay.distill.students.classic import Linear, Tree
from forebay.distill.students.layers import bert_of
from forebay.distill.students.neural import NeuralStudent, batches
from forebay.distill.students.port import Plan, Student, Subject
from forebay.distill.students.registry import check_kind, open_student
from forebay.distill.students.words import vocabulary
from forebay.distill.target import Wanted, find_target
from forebay.distill.transfer import part_of
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row
from forebay.optimize.sources.bert import export_folder, read_bert


def run(file: Path, rows: list[Row]) -> list[Array]:
    """What a graph of one input answers to a batch."""
    session = ort.InferenceSession(str(file))
    feed = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return [np.asarray(one) for one in session.run(None, feed)]


def taught(student: Student, rows: list[Row], wanted: Array, labels: Array | None = None) -> list[Epoch]:
    heard: list[Epoch] = []
    whole = part(rows, wanted, labels)
    cut = len(rows) * 3 // 4
    places = list(range(len(rows)))
    student.fit(part_of(whole, places[:cut]), part_of(whole, places[cut:]), heard.append)
    return heard


@pytest.mark.parametrize("form", ["probabilities", "logits", "vectors", "unit", "numbers"])
@pytest.mark.parametrize("kind", [Linear, Tree])
def test_what_is_written_answers_as_what_was_trained(kind: Any, form: str, tmp_path: Path) -> None:
    rows = numbers(400)
    wanted = linear_answers(rows)
    if form == "logits":
        wanted = np.log(wanted)
    elif form in ("vectors", "unit"):
        wanted = wanted - 0.3
        if form == "unit":
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    elif form == "numbers":
        wanted = np.log(wanted[:, 0])
    subject = numeric_subject(wanted, "vectors" if form == "unit" else form)
    student = kind(subject, Plan())
    assert taught(student, rows, wanted)
    (answers,) = run(tmp_path / student.write(tmp_path), rows)
    trained = student.answer(rows)
    assert answers.shape == wanted.shape
    assert np.allclose(answers.reshape(len(rows), -1), trained, atol=1e-5)
    least = {"numbers": 0.6, "vectors": 0.8, "unit": 0.8}.get(form, 0.8)
    assert agreement(subject.target, wanted.reshape(len(rows), -1), trained) > least


def test_a_linear_student_of_a_linear_teacher_is_the_teacher() -> None:
    rows = numbers(400)
    wanted = linear_answers(rows)
    student = Linear(numeric_subject(wanted), Plan(patience=20))
    taught(student, rows, wanted)
    assert np.abs(student.answer(rows) - wanted).max() < 0.02


def test_the_place_of_the_highest_and_types_of_the_teacher_are_answered_too(tmp_path: Path) -> None:
    rows = numbers(100)
    wanted = linear_answers(rows)
    outputs = (TensorSpec("label", "INT64", ()), TensorSpec("shares", "FP64", (3,)))
    answers = {"label": wanted.argmax(axis=1), "shares": wanted.astype(np.float64)}
    signature = Signature((TensorSpec("a", "INT64", (2,)), TensorSpec("x", "FP64", (6,))), outputs)
    subject = Subject(signature, find_target(outputs, answers, Wanted()))
    both: list[Row] = [{"a": np.array([1, 2]), "x": row["x"].astype(np.float64)} for row in rows]
    student = Linear(subject, Plan())
    taught(student, both, wanted)
    session = ort.InferenceSession(str(tmp_path / student.write(tmp_path)))
    assert [(one.name, one.type) for one in session.get_inputs()] == [("a", "tensor(int64)"), ("x", "tensor(double)")]
    assert {one.name: one.type for one in session.get_outputs()} == {
        "label": "tensor(int64)",
        "shares": "tensor(double)",
    }
    feed = {name: np.stack([row[name] for row in both]) for name in both[0]}
    shares, label = session.run(["shares", "label"], feed)
    assert np.array_equal(shares.argmax(axis=1), label)


def test_labels_pull_a_student_to_the_truth() -> None:
    rows = numbers(400)
    wanted = linear_answers(rows)
    # The teacher is wrong about every fourth row.
    labels = np.where(np.arange(400) % 4 == 0, (wanted.argmax(axis=1) + 1) % 3, wanted.argmax(axis=1))
    by_teacher = Linear(numeric_subject(wanted), Plan())
    by_labels = Linear(numeric_subject(wanted), Plan(losses={"labels": 1.0}))
    taught(by_teacher, rows, wanted)
    taught(by_labels, rows, wanted, labels)
    surest = [float(one.answer(rows).max(axis=1).mean()) for one in (by_teacher, by_labels)]
    assert surest[1] < surest[0]  # labels that contradict the rows make it unsure


def test_a_loss_that_a_kind_cannot_be_trained_by_is_refused() -> None:
    wanted = linear_answers(numbers(8))
    with pytest.raises(SetupError, match="--loss kl: --student tree is trained by mse here"):
        Tree(numeric_subject(wanted), Plan(losses={"kl": 1.0}))
    with pytest.raises(SetupError, match="--loss cosine: --student linear is trained by kl and labels here"):
        Linear(numeric_subject(wanted), Plan(losses={"cosine": 1.0}))


TEXT = (TensorSpec("text", "BYTES", (1,)),)
LINES = [
    f"{start} {word} {end}"
    for start in ("the film was", "we found it", "it is", "all of it was")
    for word in ("good", "bad", "great", "awful", "lovely", "dull")
    for end in ("today", "again", "as ever", "indeed", "for us", "in the end")
]
GOOD = ("good", "great", "lovely")


def text_lesson() -> tuple[list[Row], Array, Subject]:
    """A teacher that knows good words from bad ones."""
    liked = np.array([any(word in line.split() for word in GOOD) for line in LINES])
    wanted = np.where(liked[:, None], [0.1, 0.9], [0.9, 0.1]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(LINES))
    rows = texts([LINES[place] for place in order])
    outputs = (TensorSpec("y", "FP32", (2,)),)
    return rows, wanted[order], Subject(Signature(TEXT, outputs), find_target(outputs, {"y": wanted}, Wanted()))


def of_texts(kind: str, subject: Subject, **plan: Any) -> NeuralStudent:
    pytest.importorskip("torch", reason="torch comes with an extra")
    found = open_student(kind, subject, Plan(batch=16, **plan))
    assert isinstance(found, NeuralStudent)
    return found


@pytest.mark.parametrize("kind", ["static-embedding", "text-cnn"])
def test_a_student_of_texts_learns_words_without_a_tokenizer_and_the_seed_decides(kind: str) -> None:
    rows, wanted, subject = text_lesson()
    answers = []
    for seed in (0, 0, 1):
        student = of_texts(kind, subject, epochs=6, seed=seed)
        epochs = taught(student, rows, wanted)
        answers.append(student.answer(rows))
        assert epochs[-1].loss < epochs[0].loss
    assert agreement(subject.target, wanted, answers[0]) > 0.95
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])
    # Words that it has not seen, none at all, and what is no UTF-8, have an answer.
    strange = texts(["zzz qqq", "", "ß\u0000 \U0001f600", "good zzz"])
    assert np.isfinite(student.answer(strange)).all()


def test_the_best_epoch_is_kept_and_training_stops_without_a_better_one() -> None:
    rows, wanted, subject = text_lesson()
    heard: list[Epoch] = []
    student = of_texts("static-embedding", subject, epochs=40, patience=3)
    whole = part(rows, wanted)
    # What it is stopped by says the contrary, so that the first epoch is the best.
    against = part(rows, wanted[:, ::-1].copy())
    trained = student.fit(whole, against, heard.append)
    assert (trained.stopped_early, len(trained.epochs)) == (True, trained.best_epoch + 3)
    best = max(heard, key=lambda epoch: (epoch.agreement, -epoch.held_out_loss))
    assert trained.best_epoch == best.number
    assert agreement(subject.target, against.wanted, student.answer(rows)) == pytest.approx(best.agreement)


def test_kinds_say_what_they_are_not_for() -> None:
    wanted = linear_answers(numbers(8))
    subject = numeric_subject(wanted)
    _, _, of_texts = text_lesson()
    pytest.importorskip("torch", reason="torch comes with an extra")
    for kind, about, told in (
        ("static-embedding", subject, r"is for texts .* the teacher takes x FP32\[6\]"),
        ("text-cnn", subject, "--student text-cnn is for texts"),
        ("cnn", subject, "is for one input of pictures of one size"),
        ("linear", of_texts, "for texts use static-embedding"),
        ("tree", of_texts, "for texts use static-embedding"),
        ("every-nth-layer", of_texts, "has to be a Hugging Face folder"),
    ):
        with pytest.raises(SetupError, match=told):
            open_student(kind, about, Plan())


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            "forest",
            "no such student; there are static-embedding, text-cnn, every-nth-layer, cnn, linear, tree, and FILE",
        ),
        ("none.py:factory", "there is no file 'none.py'"),
    ],
)
def test_what_is_no_student_is_told_before_anything_is_opened(kind: str, told: str) -> None:
    with pytest.raises(SetupError, match=told):
        check_kind(kind)


def test_a_vocabulary_is_the_same_for_the_same_words_in_any_order() -> None:
    parted = [["yes", "no"], ["no", "maybe"], ["yes", "no"]]
    found = vocabulary(parted)
    assert found == vocabulary(parted[::-1])
    assert list(found)[:3] == ["[UNK]", "no", "yes"]
    assert {"m", "##m", "y"} <= found.keys()
    assert "maybe" not in found


def test_batches_have_every_row_once_and_like_lengths_together() -> None:
    lengths = np.arange(1000) % 37
    found = list(batches(lengths, 16, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == list(range(1000))
    spread = float(np.mean([np.ptp(lengths[chosen]) for chosen in found]))
    assert spread < 6


MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 2)

    def forward(self, x):
        return self.linear(x)

def factory(inputs, outputs): return Net()
"""


def test_a_torch_module_learns_numbers_of_any_size_and_answers_in_their_units(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(MODULE)
    rows = numbers(400)
    values = np.stack([row["x"] for row in rows])
    wanted = np.stack([1e4 * values[:, 0] + 5e5, values[:, 1]], axis=1).astype(np.float32)
    subject = numeric_subject(wanted, "numbers")
    student = open_student(f"{tmp_path / 'net.py'}:factory", subject, Plan(epochs=60, rate=0.05))
    taught(student, rows, wanted)
    (answers,) = run(tmp_path / student.write(tmp_path), rows)
    assert answers == pytest.approx(student.answer(rows), rel=1e-4, abs=1e-3)
    assert agreement(subject.target, wanted, answers) > 0.95


def test_a_module_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(MODULE.replace("forward(self, x)", "forward(self, image)"))
    rows = numbers(40)
    wanted = linear_answers(rows)
    student = open_student(f"{tmp_path / 'net.py'}:factory", numeric_subject(wanted), Plan())
    with pytest.raises(SetupError, match=r"forward fails on a batch of x: TypeError: .*unexpected keyword argument"):
        taught(student, rows, wanted)


@pytest.mark.parametrize("rows", [1, 2, 17, 1025, 2049, 4097])
def test_no_batch_has_one_row_unless_there_is_but_one(rows: int) -> None:
    found = list(batches(np.arange(rows) % 37, 16, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert min(map(len, found)) > 1 or rows == 1


def test_rows_with_gaps_are_told_before_a_linear_student_is_fitted() -> None:
    rows = numbers(40)
    wanted = linear_answers(rows)
    rows[3]["x"] = np.where(np.arange(6) == 2, np.nan, rows[3]["x"]).astype(np.float32)  # type: ignore[index]
    with pytest.raises(SetupError, match="rows hold NaN or infinity in x, of which --student linear makes nothing"):
        taught(open_student("linear", numeric_subject(wanted), Plan()), rows, wanted)


def test_a_bert_with_all_its_layers_is_its_teacher(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with an extra")
    folder = folder_of(tmp_path / "bert", bert_weights(layers=3, classes=2), num_hidden_layers=3)
    original = export_folder(folder, "bert", tmp_path)
    ids, mask = np.array([[3, 7, 1, 9], [5, 2, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    wanted = ort.InferenceSession(str(original.graph)).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    weights, shape, _ = read_bert(folder)
    module = bert_of(weights, shape, [0, 1, 2]).eval()
    with torch.no_grad():
        found = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).numpy()
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["static-embedding", "text-cnn"])
def test_tokens_of_a_teacher_are_taken_whatever_their_ids_and_inputs_that_are_not_read_stay(
    kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    random = np.random.default_rng(0)
    axis = (-1,)
    inputs = tuple(TensorSpec(name, "INT64", axis) for name in ("input_ids", "token_type_ids", "attention_mask"))
    rows: list[Row] = []
    for _ in range(200):
        ids = random.integers(1, 30, random.integers(1, 9))
        rows.append({"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)})
    liked = np.array([float((row["input_ids"] > 20).mean()) for row in rows])
    wanted = np.stack([1 - liked, liked], axis=1).astype(np.float32)
    outputs = (TensorSpec("place", "INT32", ()), TensorSpec("y", "FP32", (2,)))
    answers = {"place": wanted.argmax(axis=1), "y": wanted}
    subject = Subject(Signature(inputs, outputs), find_target(outputs, answers, Wanted()))
    student = of_texts(kind, subject, epochs=3)
    taught(student, rows, wanted)
    session = ort.InferenceSession(str(tmp_path / student.write(tmp_path)))
    assert [one.name for one in session.get_inputs()] == ["input_ids", "token_type_ids", "attention_mask"]
    assert [one.name for one in session.get_outputs()] == ["place", "y"]
    ids = np.array([[5, 7, 25, 9], [900_000, -3, 7, 0], [3, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
    place, y = session.run(None, {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": mask})
    strange: list[Row] = [
        {"input_ids": one, "token_type_ids": one * 0, "attention_mask": kept}
        for one, kept in zip(ids, mask, strict=True)
    ]
    assert np.allclose(y, student.answer(strange), atol=1e-6)
    assert np.array_equal(place, y.argmax(axis=1))
    # A row alone, without its padding.
    feed = {"input_ids": ids[1:2, :3], "token_type_ids": ids[1:2, :3] * 0, "attention_mask": mask[1:2, :3]}
    assert np.allclose(session.run(["y"], feed)[0], y[1:2], atol=1e-6)
