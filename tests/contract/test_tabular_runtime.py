"""What every runtime promises, for those that read models of trees and classic models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contract.tabular import KINDS, a_model

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.tensors import to_buffer
from forebay.engine import measure
from forebay.models.source import digest_of
from forebay.runtimes.port import Runtime, load_runtime


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of model in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Runtime:
    return a_model(tmp_path_factory.mktemp("model"), kind)[0]


def features(runtime: Runtime) -> int:
    (spec,) = runtime.signature.inputs
    assert (spec.name, spec.datatype) == ("input", "FP32")
    return spec.row_shape[0]


def test_the_signature_names_labels_and_probabilities_or_the_prediction(runtime: Runtime, kind: str) -> None:
    assert runtime.platform == kind.split()[0]
    assert runtime.signature.batched
    outputs = [(spec.name, spec.datatype, spec.row_shape) for spec in runtime.signature.outputs]
    if "regressor" in kind:
        assert outputs == [("prediction", "FP32", ())]
    else:
        classes = 10 if kind in ("lightgbm classifier", "sklearn forest") else 2
        label = "BYTES" if kind == "sklearn words" else "INT64"
        assert outputs == [("label", label, ()), ("probabilities", "FP32", (classes,))]


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_outputs_come_in_the_order_and_shape_of_the_signature(runtime: Runtime, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, features(runtime))).astype("<f4")
    outputs = runtime.run({"input": x}, rows)
    for spec, array in zip(runtime.signature.outputs, outputs, strict=True):
        assert array.shape == (rows, *spec.row_shape)
        assert to_buffer(array, spec.datatype)
        if spec.datatype == "FP32":
            assert array.dtype == np.float32
        if spec.datatype == "INT64":
            assert array.dtype == np.int64


def test_inputs_that_may_not_be_written_to_are_fine_and_are_left_as_they_are(runtime: Runtime) -> None:
    x = np.ones((3, features(runtime)), "<f4")
    frozen = np.frombuffer(x.tobytes(), "<f4").reshape(x.shape)
    assert not frozen.flags.writeable
    runtime.run({"input": frozen}, 3)
    assert np.array_equal(frozen, x)


def test_an_answer_is_not_changed_by_the_next_one(runtime: Runtime) -> None:
    examples = [np.asarray(row["input"])[None] for row in runtime.examples()]
    first = runtime.run({"input": examples[0]}, 1)
    kept = [array.copy() for array in first]
    for row in examples[1:]:
        runtime.run({"input": row}, 1)
    assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, kept, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 300])
def test_what_the_library_raises_is_a_model_error_and_the_next_run_is_well(runtime: Runtime, rows: int) -> None:
    good = np.ones((rows, features(runtime)), "<f4")
    for columns in (1, features(runtime) + 1):
        with pytest.raises(ExecutionError) as caught:
            runtime.run({"input": np.ones((rows, columns), "<f4")}, rows)
        assert caught.value.code == "model_error"
        assert caught.value.message
        assert len(runtime.run({"input": good}, rows)[0]) == rows


def test_rows_together_are_rows_alone(runtime: Runtime) -> None:
    assert measure.check_batchable(runtime, measure.Samples(runtime)) == (True, "")


def test_examples_are_rows_and_there_are_no_settings(runtime: Runtime) -> None:
    assert all(np.shape(row["input"]) == (features(runtime),) for row in runtime.examples())
    assert dict(runtime.settings) == {}


def test_the_note_says_what_runs(runtime: Runtime) -> None:
    assert runtime.note.startswith("runs as ")


def test_only_a_cpu_runs_it_and_the_digest_is_that_of_the_file(tmp_path: Path, kind: str) -> None:
    _, source = a_model(tmp_path, kind)
    with pytest.raises(SetupError, match=r"device 'cuda:0' is not usable for .*; write cpu"):
        load_runtime(source, "cuda:0", 1)
    assert len(digest_of(source)) == 64
