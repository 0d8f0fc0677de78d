"""Which variants of a model may answer for it, and for which files that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from forebay.agreement.compare import Judge
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature


class MeasuredVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One form, by its name as served. `accuracy`: by the labels, or, without labels, its agreement; `agreement`: share
    of rows on which it says what the model itself says. `rows_per_s`: what it did when it was measured."""

    name: str
    digest: str
    accuracy: float
    agreement: float
    rows_per_s: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What `forebay variants` found, as it stands in its file: the model itself, and its variants, the best first.

    `least_cosine`: vectors that are nearer to each other than this say the same. `most_apart`: numbers that are no
    farther apart do.
    """

    model: MeasuredVariant
    variants: tuple[MeasuredVariant, ...]
    rows: int
    labelled: bool
    output: str
    judge: Judge
    least_cosine: float = 0.99
    most_apart: float = 0.0


class VariantRules(msgspec.Struct, frozen=True, kw_only=True):
    """Variants that may answer for a model, the best first."""

    measured: Measured
    names: tuple[str, ...]
    down_after_s: float
    up_after_s: float
    shadow_rate: float


def read_measured(path: Path) -> Measured:
    """What stands in a file. Raises `SetupError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(f"the variants {path} cannot be read: {error}") from None


def rules_for(model: str, settings: ModelSettings, signature: Signature, *, streams: bool) -> VariantRules | None:
    """The rules of a model with `variants`, whose file is read; None: it has none. Whether they are served, and are
    those that were measured, is left to who opens them. Raises `SetupError`."""
    if settings.variants is None:
        return None
    if settings.cascade is not None:
        raise SetupError(f"{model}: variants and a cascade both choose who answers; set one of the two")
    if streams:
        raise SetupError(f"{model}: variants are for whole answers, and this model yields them in pieces")
    measured = read_measured(settings.variants)
    _check_output(model, settings.variants, measured, signature)
    floor = settings.variant_min_accuracy
    names = tuple(one.name for one in measured.variants if one.accuracy >= floor and one.name != model)
    if not names:
        raise SetupError(f"{model}: no variant keeps variant_min_accuracy = {floor:g}: {_told(measured.variants)}")
    return VariantRules(
        measured=measured,
        names=names,
        down_after_s=settings.variant_down_after_s,
        up_after_s=settings.variant_up_after_s,
        shadow_rate=settings.variant_shadow_rate,
    )


def _check_output(model: str, path: Path, measured: Measured, signature: Signature) -> None:
    row_shapes = {spec.name: spec.row_shape for spec in signature.outputs}
    if measured.output not in row_shapes:
        raise SetupError(
            f"{model}: the variants in {path} were measured by output {measured.output!r}, and the model has "
            f"{', '.join(row_shapes)}; measure anew"
        )
    if measured.judge == "vectors" and set(row_shapes[measured.output]) <= {1}:
        raise SetupError(
            f"{model}: the variants in {path} were compared as vectors by output {measured.output!r}, which is one "
            "number a row: that told their signs only; measure anew with forebay variants"
        )


def _told(variants: Sequence[MeasuredVariant]) -> str:
    return ", ".join(f"{one.name} has {one.accuracy:.4f}" for one in variants) or "there is none in the file"
