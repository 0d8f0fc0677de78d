"""Students of texts that begin with vectors of others: they know words that no row to learn from has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tests.unit.distill.lessons import part, texts

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.distill.students.neural import NeuralStudent
from forebay.distill.students.port import Plan, Subject
from forebay.distill.students.registry import open_student
from forebay.distill.students.text_model import GRAPH_FILE
from forebay.distill.students.vectors import of_width, read_vectors
from forebay.distill.target import Wanted, find_target
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Row

WORDS = ("[UNK]", "fine", "good", "nice", "sad", "bad", "poor", "not", "the", "film", "was", "we", "saw", "it")
LIKED = {"fine": 1.0, "good": 1.0, "nice": 1.0, "sad": -1.0, "bad": -1.0, "poor": -1.0}


def folder(path: Path, tensors: Mapping[str, Array]) -> Path:
    """A folder with these weights and a tokenizer of `WORDS`."""
    save_file: Callable[..., None] = pytest.importorskip("safetensors.numpy").save_file
    tokenizers = pytest.importorskip("tokenizers")
    path.mkdir(exist_ok=True)
    save_file(dict(tensors), str(path / "model.safetensors"))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def table(width: int = 200) -> Array:
    """Vectors of `WORDS`, in which liked words lie on one side and the others on the other."""
    random = np.random.default_rng(0)
    side = random.standard_normal(width)
    found = 0.3 * random.standard_normal((len(WORDS), width))
    return np.asarray(found + np.outer([LIKED.get(word, 0.0) for word in WORDS], side), np.float32)


def lesson(path: Path) -> tuple[list[Row], Array, Subject]:
    """Texts with `good` and `bad`."""
    lines = [
        f"{start} {word} {end}".strip()
        for start in ("the film was", "we saw it was", "it was", "was it")
        for word in ("good", "bad")
        for end in ("", "film", "the film", "we saw", "it")
    ]
    liked = np.array(["good" in line for line in lines])
    wanted = np.where(liked[:, None], [0.1, 0.9], [0.9, 0.1]).astype(np.float32)
    outputs = (TensorSpec("y", "FP32", (2,)),)
    signature = Signature((TensorSpec("text", "BYTES", (1,)),), outputs)
    subject = Subject(signature, find_target(outputs, {"y": wanted}, Wanted()), path / "tokenizer.json")
    return texts(lines), wanted, subject


@pytest.mark.parametrize("kind", ["static-embedding", "text-cnn"])
def test_words_that_no_row_has_are_known_by_their_vectors(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    path = folder(tmp_path / "vectors", {"embeddings.word_embeddings.weight": table()})
    rows, wanted, subject = lesson(path)
    student = open_student(kind, subject, Plan(batch=8, epochs=25, patience=25, vectors=path))
    assert isinstance(student, NeuralStudent)
    student.fit(part(rows, wanted), part(rows, wanted), lambda epoch: None)
    unseen = texts(["the film was fine", "it was nice", "it was sad", "the film was poor"])
    answers = student.answer(unseen)
    assert answers.argmax(axis=1).tolist() == [1, 1, 0, 0]
    # What is written answers so too, in a batch that is filled up: a text of one word, and one without any.
    student.write(tmp_path)
    session = ort.InferenceSession(str(tmp_path / GRAPH_FILE))
    ids = np.array([[8, 9, 10, 1], [5, 0, 0, 0], [0, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert np.allclose(found, student.answer(texts(["the film was fine", "bad", ""])), atol=1e-5)


def test_a_text_cnn_tells_apart_what_only_three_words_on_end_do(tmp_path: Path) -> None:
    """All texts have the same words and the same pairs of neighbours."""
    pytest.importorskip("torch", reason="torch comes with an extra")
    path = folder(tmp_path / "vectors", {"embeddings": table()})
    _, _, subject = lesson(path)
    rows = texts(["it we was good it film was bad it", "it we was bad it film was good it"] * 16)
    wanted = np.array([[0.1, 0.9], [0.9, 0.1]] * 16, np.float32)
    found = {}
    for kind in ("static-embedding", "text-cnn"):
        student = open_student(kind, subject, Plan(batch=8, epochs=40, patience=40, vectors=path))
        student.fit(part(rows, wanted), part(rows, wanted), lambda epoch: None)
        found[kind] = student.answer(rows)
    assert np.allclose(found["static-embedding"][0], found["static-embedding"][1], atol=1e-6)
    assert (found["text-cnn"].argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert "128 of spans" in student.about
    # What tokens add to spans is computed when the graph is loaded: what is left are the three layers at the end.
    student.write(tmp_path)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(str(tmp_path / GRAPH_FILE), options)
    onnx = pytest.importorskip("onnx")
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "loaded.onnx")).graph.node]
    assert len([kind for kind in kinds if "MatMul" in kind or "Gemm" in kind]) == 3, kinds


@pytest.mark.parametrize(
    "name",
    ["embeddings", "bert.embeddings.word_embeddings.weight", "embedding.weight", "model.embed_tokens.weight"],
)
def test_tables_are_found_by_the_names_that_libraries_give_them(name: str, tmp_path: Path) -> None:
    others = {"layer.weight": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)}
    path = folder(tmp_path, {name: table().astype(np.float16), **others})
    assert np.allclose(read_vectors(path), table(), atol=1e-2)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"layer.weight": np.ones((3, 4), np.float32)},
            r"two axes in model.safetensors \(layer.weight\) none is called",
        ),
        ({"bias": np.ones(4, np.float32)}, r"\(none\) none is called"),
        ({"embeddings": np.full((3, 4), np.nan, np.float32)}, "numbers that are not finite"),
        ({"embeddings": np.ones((0, 4), np.float32)}, "is empty"),
    ],
)
def test_a_folder_without_such_a_table_is_refused(tensors: Mapping[str, Array], said: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=said):
        read_vectors(folder(tmp_path, tensors))


def test_vectors_of_fewer_tokens_than_the_tokenizer_has_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    path = folder(tmp_path, {"embeddings": table()[:5]})
    rows, wanted, subject = lesson(path)
    student = open_student("text-cnn", subject, Plan(vectors=path))
    with pytest.raises(SetupError, match="it has 5 vectors and the tokenizer 14 tokens"):
        student.fit(part(rows, wanted), part(rows, wanted), lambda epoch: None)


@pytest.mark.parametrize("width", [8, 64])
def test_vectors_become_as_wide_as_is_wanted_and_keep_what_tells_them_apart(width: int) -> None:
    given = np.random.default_rng(0).standard_normal((50, 16)) * np.linspace(5.0, 0.1, 16)
    found = of_width(given.astype(np.float32), width, 0.1)
    assert found.shape == (50, width)
    assert found.std() == pytest.approx(0.1, rel=1e-5)
    apart = np.linalg.norm(given[:, None] - given[None], axis=2)
    still = np.linalg.norm(found[:, None].astype(float) - found[None], axis=2)
    kept = np.corrcoef(apart.ravel(), still.ravel())[0, 1]
    assert kept > (0.95 if width < 16 else 1 - 1e-6)
