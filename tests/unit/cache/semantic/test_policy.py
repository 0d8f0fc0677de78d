"""Where the threshold comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from forebay.cache.semantic.policy import Calibration, check_embedder_of, read_calibration, rules_for, threshold_for
from forebay.core.caching import SemanticRules
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature, TensorSpec

FOUND = Calibration(
    threshold=0.87, budget=0.05, upper_bound=0.047, false_hits=3, different_pairs=183, true_hits=77, same_pairs=177,
    embedder="e1",
)  # fmt: skip


def choose(calibration: Calibration | None, threshold: float | None = None, uncalibrated: bool = False) -> float:
    return threshold_for("qa", "e1", calibration=calibration, threshold=threshold, uncalibrated=uncalibrated)


def test_without_a_calibration_it_takes_a_word_of_the_operator() -> None:
    with pytest.raises(SetupError, match=r"qa: cache = .semantic. without a calibration.*semantic_uncalibrated = true"):
        choose(None)
    with pytest.raises(SetupError, match="without a calibration"):
        choose(None, 0.999)
    assert choose(None, uncalibrated=True) == 0.98
    assert choose(None, 0.9, uncalibrated=True) == 0.9


def test_a_calibration_gives_the_threshold_and_bounds_a_given_one() -> None:
    assert choose(FOUND) == 0.87
    assert choose(FOUND, 0.95) == 0.95
    with pytest.raises(SetupError, match=r"semantic_threshold = 0.8 is below the calibrated 0.8700"):
        choose(FOUND, 0.8)
    assert choose(FOUND, 0.8, uncalibrated=True) == 0.8


def test_a_calibration_counts_only_for_what_it_was_made_with() -> None:
    with pytest.raises(SetupError, match="another embedder"):
        choose(msgspec.structs.replace(FOUND, embedder="e2"), uncalibrated=True)
    with pytest.raises(SetupError, match="another version of the guard"):
        choose(msgspec.structs.replace(FOUND, guard=FOUND.guard + 1))


def test_a_calibration_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(msgspec.json.encode(FOUND))
    assert read_calibration(path) == FOUND
    path.write_text('{"threshold": 0.5}')
    with pytest.raises(SetupError, match="cannot be read: Object missing required field"):
        read_calibration(path)
    with pytest.raises(SetupError, match="cannot be read"):
        read_calibration(tmp_path / "none.json")


TEXT = TensorSpec("text", "BYTES", (1,))
ANSWER = (TensorSpec("answer", "BYTES", (1,)),)


def rules(*inputs: TensorSpec, streams: bool = False, **settings: object) -> SemanticRules:
    chosen = ModelSettings(**{"semantic_embedder": "minilm", **settings})  # type: ignore[arg-type]
    return rules_for("qa", chosen, Signature(inputs or (TEXT,), ANSWER), streams=streams)


def test_rules_are_those_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(msgspec.json.encode(FOUND))
    found = rules(
        semantic_embedder="minilm/2", semantic_calibration=path, semantic_timeout_ms=250.0, semantic_shadow_rate=0.5
    )
    assert (found.embedder, found.threshold, found.calibrated_for) == ("minilm/2", 0.87, "e1")
    assert (found.timeout_s, found.shadow_rate) == (0.25, 0.5)
    uncalibrated = rules(semantic_uncalibrated=True)
    assert (uncalibrated.threshold, uncalibrated.calibrated_for) == (0.98, "")


@pytest.mark.parametrize(
    ("inputs", "more", "message"),
    [
        ((), {"semantic_embedder": None}, "needs a served model that makes vectors of texts: set qa.semantic_embedder"),
        ((), {"semantic_embedder": "qa"}, "semantic_embedder = 'qa' is the model itself"),
        ((), {"semantic_embedder": "qa/2"}, "semantic_embedder = 'qa/2' is the model itself"),
        ((), {}, "without a calibration may serve wrong answers"),
        ((), {"semantic_calibration": Path("none.json")}, "the calibration none.json cannot be read"),
        ((), {"streams": True}, "this model yields them in pieces"),
        ((TensorSpec("x", "FP32", (1,)),), {}, r"is for a model with one BYTES input; it has x FP32\[1\]"),
        ((TEXT, TEXT), {}, "with one BYTES input; it has text"),
        ((TensorSpec("text", "BYTES", (2,)),), {}, r"one text a row; it has text BYTES\[2\]"),
    ],
)
def test_what_no_semantic_cache_can_be_made_of(
    inputs: tuple[TensorSpec, ...], more: dict[str, object], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        rules(*inputs, **more)  # type: ignore[arg-type]


def test_rules_hold_for_one_embedder_and_one_guard(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(msgspec.json.encode(FOUND))
    found = rules(semantic_calibration=path)
    check_embedder_of("qa", found, "e1")
    check_embedder_of("qa", rules(semantic_uncalibrated=True), "any")
    with pytest.raises(SetupError, match="another embedder"):
        check_embedder_of("qa", found, "e2")
    with pytest.raises(SetupError, match="another version of the guard"):
        check_embedder_of("qa", msgspec.structs.replace(found, guard=0), "e1")
