"""How sure the semantic tier must be, and where that comes from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from forebay.cache.semantic.guard import GUARD_VERSION
from forebay.core.caching import SemanticRules
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature

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
                "`forebay cache calibrate --pairs pairs.csv --budget 1% --embedder FILE.py:CLASS --out "
                'calibration.json` and set semantic_calibration = "calibration.json", or accept the risk with '
                "semantic_uncalibrated = true"
            )
        return DEFAULT_THRESHOLD if threshold is None else threshold
    _check_made_with(model, calibration.embedder, calibration.guard, embedder)
    if threshold is not None and threshold < calibration.threshold and not uncalibrated:
        raise SetupError(
            f"{model}: semantic_threshold = {threshold} is below the calibrated {calibration.threshold:.4f}; raise it, "
            "leave it out, or accept the risk with semantic_uncalibrated = true"
        )
    return calibration.threshold if threshold is None else threshold


def rules_for(model: str, settings: ModelSettings, signature: Signature, *, streams: bool) -> SemanticRules:
    """The rules of a model with `cache = "semantic"`; reads its calibration. What depends on the embedder that is
    served is left to `check_embedder_of`. Raises `SetupError`."""
    _check_takes_text(model, signature, streams)
    embedder = settings.semantic_embedder
    if embedder is None:
        raise SetupError(
            f'{model}: cache = "semantic" needs a served model that makes vectors of texts: set '
            f"{model}.semantic_embedder to its name"
        )
    if model in (embedder, embedder.rpartition("/")[0]):
        raise SetupError(f"{model}: semantic_embedder = {embedder!r} is the model itself; name another one")
    calibration = None
    if settings.semantic_calibration is not None:
        calibration = read_calibration(settings.semantic_calibration)
    made_for = calibration.embedder if calibration is not None else ""
    threshold = threshold_for(
        model,
        made_for,
        calibration=calibration,
        threshold=settings.semantic_threshold,
        uncalibrated=settings.semantic_uncalibrated,
    )
    return SemanticRules(
        embedder=embedder,
        threshold=threshold,
        guard=GUARD_VERSION,
        calibrated_for=made_for,
        index=settings.semantic_index,
        max_text_bytes=settings.semantic_max_text_bytes,
        timeout_s=settings.semantic_timeout_ms / 1e3,
        shadow_rate=settings.semantic_shadow_rate,
        max_false_hit_rate=settings.semantic_max_false_hit_rate,
    )


def check_embedder_of(model: str, rules: SemanticRules, embedder: str) -> None:
    """Whether the rules hold for the embedder with this digest, and for the guard of this process, which may be of
    another release than the one that made the rules. Raises `SetupError`."""
    if rules.calibrated_for:
        _check_made_with(model, rules.calibrated_for, rules.guard, embedder)


def _check_made_with(model: str, made_with: str, guard: int, embedder: str) -> None:
    if made_with != embedder:
        raise SetupError(
            f"{model}: the calibration was made with another embedder than the one served; calibrate anew, with "
            "--embedder as the server is given it"
        )
    if guard != GUARD_VERSION:
        raise SetupError(f"{model}: the calibration was made with another version of the guard; calibrate anew")


def _check_takes_text(model: str, signature: Signature, streams: bool) -> None:
    if streams:
        raise SetupError(f'{model}: cache = "semantic" is for whole answers, and this model yields them in pieces')
    inputs = ", ".join(f"{spec.name} {spec.datatype}{list(spec.row_shape)}" for spec in signature.inputs)
    if len(signature.inputs) != 1 or signature.inputs[0].datatype != "BYTES":
        raise SetupError(f'{model}: cache = "semantic" is for a model with one BYTES input; it has {inputs}')
    if any(axis not in (1, -1) for axis in signature.inputs[0].row_shape):
        raise SetupError(f'{model}: cache = "semantic" is for a model that takes one text a row; it has {inputs}')
