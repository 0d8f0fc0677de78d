"""How sure the semantic tier must be, and where that comes from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from forebay.cache.semantic.guard import GUARD_VERSION
from forebay.core.errors import SetupError

DEFAULT_THRESHOLD = 0.98


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What `forebay cache calibrate` found, as it stands in its file.

    `embedder` is the digest of the model that made the vectors. Of `different_pairs` pairs with different answers
    `false_hits` would have been answered alike; with 95 % confidence it is below `upper_bound` of such pairs.
    """

    threshold: float
    budget: float
    upper_bound: float
    false_hits: int
    different_pairs: int
    true_hits: int
    same_pairs: int
    embedder: str
    guard: int = GUARD_VERSION


class SemanticPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A hit needs at least this cosine. Texts above `max_text_bytes` are not compared: an embedder reads only the
    beginning of a long text, and the guard knows nothing of what texts of many sentences are about. `candidates`: how
    many near texts are shown to the guard."""

    threshold: float = DEFAULT_THRESHOLD
    max_text_bytes: int = 500
    candidates: int = 4
    verifier_timeout_s: float = 1.0


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises `SetupError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(f"the calibration {path} cannot be read: {error}") from None


def threshold_for(
    model: str,
    embedder: str,
    *,
    calibration: Calibration | None,
    threshold: float | None,
    uncalibrated: bool,
) -> float:
    """The threshold to use. A calibration counts only for the embedder and the guard that it was made with.

    Raises `SetupError` where there is none and the operator has not said that it may be so (`uncalibrated`), and where
    `threshold` is below what the calibration allows.
    """
    if calibration is None:
        if not uncalibrated:
            raise SetupError(
                f'{model}: cache = "semantic" without a calibration may serve wrong answers; measure with '
                "`forebay cache calibrate --pairs pairs.csv --budget 1% --out calibration.json` and set "
                'semantic_calibration = "calibration.json", or accept the risk with semantic_uncalibrated = true'
            )
        return DEFAULT_THRESHOLD if threshold is None else threshold
    if calibration.embedder != embedder:
        raise SetupError(f"{model}: the calibration was made with another embedder than the one served; calibrate anew")
    if calibration.guard != GUARD_VERSION:
        raise SetupError(f"{model}: the calibration was made with another version of the guard; calibrate anew")
    if threshold is not None and threshold < calibration.threshold and not uncalibrated:
        raise SetupError(
            f"{model}: semantic_threshold = {threshold} is below the calibrated {calibration.threshold:.4f}; raise it, "
            "leave it out, or accept the risk with semantic_uncalibrated = true"
        )
    return calibration.threshold if threshold is None else threshold
