"""Where the threshold comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from forebay.cache.semantic.policy import Calibration, read_calibration, threshold_for
from forebay.core.errors import SetupError

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
