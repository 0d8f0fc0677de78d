"""The small models that the tests and the benchmark serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from examples.images import build as images_build
from examples.letters import CORPUS, Letters
from examples.mlp import build as mlp_build
from examples.mlp.mlp import FOLDER, Mlp
from examples.poison import Poison
from examples.sleep import Sleep

ROOT = Path(__file__).resolve().parents[3]


def test_the_mlp_learned_and_both_forms_agree(tmp_path: Path) -> None:
    path = mlp_build.build(tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, third = mlp_build.wave_rows(1000, seed=5)
    (shares,) = session.run(["y"], {"x": x})
    assert shares.shape == (1000, 3)
    assert (shares.argmax(axis=1) == third).mean() > 0.9
    model = Mlp()
    model.folder = tmp_path
    model.load("cpu")
    np.testing.assert_allclose(model.predict(x), shares, atol=1e-5)
    assert model.predict(x).dtype == np.float32


def test_an_mlp_that_was_not_built_says_how(tmp_path: Path) -> None:
    model = Mlp()
    model.folder = tmp_path
    with pytest.raises(FileNotFoundError, match=r"examples/mlp/build\.py"):
        model.load("cpu")
    assert mlp_build.DEFAULT_FOLDER == FOLDER


def test_the_image_model_computes_what_it_says(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(images_build.build(tmp_path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    w = images_build.weights()
    patches = (x / 255).reshape(2, 14, 16, 14, 16, 3)
    features = np.einsum("nahbwc,ochw->nabo", patches, w["kernel"]) + w["kernel_bias"]
    expected = features.mean(axis=(1, 2)) @ w["dense"] + w["dense_bias"]
    (logits,) = session.run(["logits"], {"x": x})
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_sleep_takes_its_time_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("examples.sleep.time.sleep", slept.append)
    answer = Sleep().predict(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32))
    assert slept == [pytest.approx(0.022)]
    np.testing.assert_array_equal(answer, [[6], [15]])
    # One full batch must fit the SLO, and the overload point counts on 64 rows in 84 ms.
    assert Sleep.max_batch_rows + 20 == 84 <= Sleep.slo_ms


def test_poison_doubles_and_raises() -> None:
    np.testing.assert_array_equal(Poison().predict(np.array([[1], [2]], dtype=np.float32)), [[2], [4]])
    with pytest.raises(ValueError, match="13"):
        Poison().predict(np.array([[1], [13]], dtype=np.float32))


def test_poison_kills_its_process() -> None:
    code = "import numpy; from examples.poison import Poison; Poison().predict(numpy.array([[666.0]]))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 9


def test_poison_hangs() -> None:
    code = "import numpy; from examples.poison import Poison; print('up', flush=True); "
    code += "Poison().predict(numpy.array([[777.0]]))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        finally:
            process.kill()


def test_letters_ends_each_row_by_itself_and_says_the_same_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.letters.LETTER_MS", 0)
    model = Letters()
    model.load("cpu")

    def written(texts: list[bytes], letters: list[int]) -> list[str]:
        rows = [""] * len(texts)
        for step in model.predict(np.array(texts, object), np.array(letters, np.int32)):
            for partial in step:
                text = partial.outputs
                rows[partial.row] += text.decode() if isinstance(text, bytes) else text
        return rows

    together = written([b"the ", b"a\xff", b"of "], [30, 0, 12])
    assert [len(text) for text in together] == [30, 0, 12]
    assert together[0] == written([b"the "], [30])[0]
    assert set("".join(together)) <= set(CORPUS)


def test_letters_stops_for_those_who_have_left() -> None:
    model = Letters()
    model.load("cpu")
    steps = model.predict(np.array([b"the ", b"a "], object), np.array([100, 100], np.int32))
    assert [partial.row for partial in next(steps)] == [0, 1]
    assert [partial.row for partial in steps.send(frozenset({0}))] == [1]
    with pytest.raises(StopIteration):
        steps.send(frozenset({0, 1}))
