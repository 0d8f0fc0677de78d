"""A Hugging Face folder becomes a graph that answers as it does in its own library, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import save_file
from tests.unit.examples.bert import last_layer

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize.sources.open import open_original
from forebay.optimize.sources.port import Original

HIDDEN, HEADS, WORDS = 8, 2, 20


def bert_weights(prefix: str = "", layers: int = 2, classes: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(0)

    def made(*shape: int) -> Array:
        return (0.3 * random.standard_normal(shape)).astype(np.float32)

    found = {
        "embeddings.word_embeddings.weight": made(WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": made(16, HIDDEN),
        "embeddings.token_type_embeddings.weight": made(2, HIDDEN),
    }
    norms, linear = ["embeddings.LayerNorm"], {}
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear[f"{layer}.{part}"] = (HIDDEN, HIDDEN)
        linear |= {f"{layer}.intermediate.dense": (4 * HIDDEN, HIDDEN), f"{layer}.output.dense": (HIDDEN, 4 * HIDDEN)}
    if classes:
        linear["pooler.dense"] = (HIDDEN, HIDDEN)
    for name in norms:
        found |= {f"{name}.weight": 1 + made(HIDDEN), f"{name}.bias": made(HIDDEN)}
    for name, (out, into) in linear.items():
        found |= {f"{name}.weight": made(out, into), f"{name}.bias": made(out)}
    found = {f"{prefix}{name}": value for name, value in found.items()}
    if classes:
        found |= {"classifier.weight": made(classes, HIDDEN), "classifier.bias": made(classes)}
    return found


def folder_of(folder: Path, weights: dict[str, Array], **config: Any) -> Path:
    folder.mkdir()
    facts = {"model_type": "bert", "num_attention_heads": HEADS, "num_hidden_layers": 2, "hidden_act": "gelu", **config}
    (folder / "config.json").write_text(json.dumps(facts))
    save_file(weights, str(folder / "model.safetensors"))
    return folder


def bert(w: dict[str, Array], ids: list[int], first: int = 0) -> Array:
    """The last layer of one row without padding, [tokens, hidden]."""
    return last_layer(w, ids, HEADS, 2, first)


def ask(original: Original, ids: Array, mask: Array) -> Array:
    session = ort.InferenceSession(str(original.graph))
    return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


ROWS = [[3, 7, 1, 9], [5, 2]]
IDS = np.array([[3, 7, 1, 9], [5, 2, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize(("kind", "pad", "prefix"), [("bert", 0, ""), ("bert", 0, "bert."), ("roberta", 1, "roberta.")])
def test_a_hugging_face_folder_answers_as_bert_does(tmp_path: Path, kind: str, pad: int, prefix: str) -> None:
    folder = folder_of(tmp_path / "net", bert_weights(prefix), model_type=kind, pad_token_id=pad)
    original = open_original(str(folder), None, tmp_path)
    assert (original.name, original.kind, original.servable) == ("net", "huggingface", False)
    found = ask(original, IDS, MASK)
    for row, ids in enumerate(ROWS):
        wanted = bert(bert_weights(), ids, 0 if kind == "bert" else 2)
        np.testing.assert_allclose(found[row, : len(ids)], wanted, rtol=1e-4, atol=1e-5)


PACKAGE = "sentence_transformers.models."
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


def with_modules(folder: Path, *modules: tuple[str, str, dict[str, Any]]) -> Path:
    """A folder that sentence-transformers wrote: path, class and settings of each module behind the Transformer."""
    listed = [("", "Transformer", {}), *modules]
    entries = [{"idx": n, "path": path, "type": f"{PACKAGE}{kind}"} for n, (path, kind, _) in enumerate(listed)]
    (folder / "modules.json").write_text(json.dumps(entries))
    for path, _, settings in modules:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "normalised"),
    [
        (MEAN, True),
        ({"pooling_mode_cls_token": True}, False),
        ({"pooling_mode": "mean", "include_prompt": True}, True),
        ({"pooling_mode": "cls"}, False),
    ],
)
def test_pooling_is_that_of_sentence_transformers(tmp_path: Path, settings: dict[str, Any], normalised: bool) -> None:
    folder = folder_of(tmp_path / "net", bert_weights())
    with_modules(folder, ("pool", "Pooling", settings), *([("2_Normalize", "Normalize", {})] if normalised else []))
    found = ask(open_original(str(folder), None, tmp_path), IDS, MASK)
    for row, ids in enumerate(ROWS):
        tokens = bert(bert_weights(), ids)
        wanted = tokens.mean(0) if normalised else tokens[0]
        wanted = wanted / np.linalg.norm(wanted) if normalised else wanted
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_behind_the_pooling_is_part_of_the_embedding(tmp_path: Path, bias: bool) -> None:
    folder = folder_of(tmp_path / "net", bert_weights())
    tanh = {"activation_function": "torch.nn.modules.activation.Tanh", "bias": bias}
    plain = {"activation_function": "torch.nn.modules.linear.Identity", "bias": bias}
    modules: list[tuple[str, str, dict[str, Any]]] = [
        ("1_Pooling", "Pooling", MEAN),
        ("2_Dense", "Dense", tanh),
        ("3_Dense", "Dense", plain),
    ]
    with_modules(folder, *modules, ("4_Normalize", "Normalize", {}))
    random = np.random.default_rng(1)
    layers = []
    for path, out, into in (("2_Dense", 5, HIDDEN), ("3_Dense", 3, 5)):
        weight, shift = random.standard_normal((out, into)), random.standard_normal(out) * bias
        tensors = {"linear.weight": weight.astype(np.float32), "linear.bias": shift.astype(np.float32)}
        save_file(tensors if bias else {"linear.weight": tensors["linear.weight"]}, folder / path / "model.safetensors")
        layers.append((weight, shift))
    found = ask(open_original(str(folder), None, tmp_path), IDS, MASK)
    for row, ids in enumerate(ROWS):
        wanted = np.tanh(layers[0][0] @ bert(bert_weights(), ids).mean(0) + layers[0][1])
        wanted = layers[1][0] @ wanted + layers[1][1]
        np.testing.assert_allclose(found[row], wanted / np.linalg.norm(wanted), rtol=1e-4, atol=1e-5)


POOLED = ("1_Pooling", "Pooling", MEAN)


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([POOLED, ("2_CNN", "CNN", {})], r"a module of type 'sentence_transformers\.models\.CNN'"),
        ([("2_Dense", "Dense", {}), POOLED], "Dense .2_Dense. stands at a place"),
        ([("1_Pooling", "Pooling", {"pooling_mode_lasttoken": True})], "pooling by lasttoken"),
        ([("1_Pooling", "Pooling", {**MEAN, "pooling_mode_cls_token": True})], "pooling by cls_token, mean_tokens"),
        ([POOLED, ("2_Dense", "Dense", {"activation_function": "torch.nn.modules.activation.ELU"})], "ELU"),
        ([POOLED, ("2_Dense", "Dense", {"module_input_name": "token_embeddings"})], "from 'token_embeddings'"),
    ],
)
def test_a_module_that_is_not_written_is_refused_by_its_name(
    tmp_path: Path, modules: list[tuple[str, str, dict[str, Any]]], told: str
) -> None:
    folder = with_modules(folder_of(tmp_path / "net", bert_weights()), *modules)
    with pytest.raises(SetupError, match=rf"{told}.*file\.py:factory"):
        open_original(str(folder), None, tmp_path)


def test_the_network_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    folder_of(tmp_path / "net" / "0_Transformer", bert_weights())
    with_modules(tmp_path / "net", POOLED)
    listed = json.loads((tmp_path / "net" / "modules.json").read_text())
    (tmp_path / "net" / "modules.json").write_text(json.dumps([{**listed[0], "path": "0_Transformer"}, *listed[1:]]))
    found = ask(open_original(str(tmp_path / "net"), None, tmp_path), IDS, MASK)
    np.testing.assert_allclose(found[0], bert(bert_weights(), ROWS[0]).mean(0), rtol=1e-4, atol=1e-5)


def test_a_classifier_gives_logits(tmp_path: Path) -> None:
    weights = bert_weights("bert.", classes=3)
    folder = folder_of(tmp_path / "net", weights)
    found = ask(open_original(str(folder), None, tmp_path), IDS, MASK)
    first = bert(bert_weights(), ROWS[0])[0]
    pooled = np.tanh(first @ weights["bert.pooler.dense.weight"].T + weights["bert.pooler.dense.bias"])
    wanted = pooled @ weights["classifier.weight"].T + weights["classifier.bias"]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("roberta", "Roberta"), ("xlm-roberta", "XLMRoberta")])
def test_a_classifier_of_roberta_has_a_head_of_its_own(tmp_path: Path, kind: str, name: str) -> None:
    random = np.random.default_rng(2)
    weights = bert_weights("roberta.")
    for layer, out in (("classifier.dense", HIDDEN), ("classifier.out_proj", 3)):
        weights[f"{layer}.weight"] = random.standard_normal((out, HIDDEN)).astype(np.float32)
        weights[f"{layer}.bias"] = random.standard_normal(out).astype(np.float32)
    config = {"model_type": kind, "pad_token_id": 1}
    folder = folder_of(tmp_path / "net", weights, **config, architectures=[f"{name}ForSequenceClassification"])
    found = ask(open_original(str(folder), None, tmp_path), IDS, MASK)
    for row, ids in enumerate(ROWS):
        inner = weights["classifier.dense.weight"] @ bert(bert_weights(), ids, 2)[0] + weights["classifier.dense.bias"]
        wanted = weights["classifier.out_proj.weight"] @ np.tanh(inner) + weights["classifier.out_proj.bias"]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)
    folder = folder_of(tmp_path / "unnamed", weights, **config)
    with pytest.raises(SetupError, match=r"names no architecture, .*\(classifier\.dense\.bias\)"):
        open_original(str(folder), None, tmp_path)


def test_a_classifier_of_tokens_gives_logits_of_each(tmp_path: Path) -> None:
    weights = bert_weights("bert.", classes=3)  # with a pooler, as older files have one
    folder = folder_of(tmp_path / "net", weights, architectures=["BertForTokenClassification"])
    original = open_original(str(folder), None, tmp_path)
    assert "logits of tokens" in original.note
    found = ask(original, IDS, MASK)
    for row, ids in enumerate(ROWS):
        wanted = bert(bert_weights(), ids) @ weights["classifier.weight"].T + weights["classifier.bias"]
        np.testing.assert_allclose(found[row, : len(ids)], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_left_of_a_masked_language_model_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", bert_weights("bert."), architectures=["BertForMaskedLM"])
    original = open_original(str(folder), None, tmp_path)
    assert original.note == "2 layers, pooling none, without the head of BertForMaskedLM"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "relu"}, "relu"),
        ({"num_hidden_layers": 5}, "5 layers"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; .* divides the 8 values"),
        ({"num_attention_heads": 3}, "num_attention_heads 3; .* divides the 8 values"),
        ({"num_attention_heads": -2}, "num_attention_heads -2"),
        ({"num_attention_heads": None}, "has no num_attention_heads"),
        ({"architectures": ["BertForQuestionAnswering"]}, r"BertForQuestionAnswering; .*file\.py:factory"),
        ({"architectures": ["BertLMHeadModel"]}, r"BertLMHeadModel; .*file\.py:factory"),
        ({"architectures": ["BertForSequenceClassification"]}, "has no tensor 'pooler.dense.weight'"),
    ],
)
def test_a_folder_that_cannot_be_written_exactly_is_refused(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    folder = folder_of(tmp_path / "net", bert_weights(), **config)
    with pytest.raises(SetupError, match=told):
        open_original(str(folder), None, tmp_path)
