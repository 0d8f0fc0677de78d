"""What a model with `variants` needs, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engine.variants_rig import measured

from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature, TensorSpec
from forebay.variants.policy import VariantRules, rules_for


def read(tmp_path: Path, row_shape: tuple[int, ...], **changes: Any) -> VariantRules | None:
    file = tmp_path / "variants.json"
    file.write_bytes(msgspec.json.encode(measured(**changes)))
    signature = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("p", "FP32", row_shape),))
    return rules_for("large", ModelSettings(variants=file), signature, streams=False)


@pytest.mark.parametrize("row_shape", [(), (1,), (1, 1)])
def test_single_numbers_that_were_compared_as_vectors_are_measured_anew(
    tmp_path: Path, row_shape: tuple[int, ...]
) -> None:
    with pytest.raises(SetupError, match=r"compared as vectors by output 'p', which is one number .* measure anew"):
        read(tmp_path, row_shape, judge="vectors")


def test_vectors_are_served_and_so_are_numbers_within_what_was_measured(tmp_path: Path) -> None:
    assert read(tmp_path, (3,), judge="vectors") is not None
    found = read(tmp_path, (1,), judge="numbers", most_apart=2.5)
    assert found is not None
    assert found.measured.most_apart == 2.5


def test_an_output_that_the_model_has_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"were measured by output 'q', and the model has p; measure anew"):
        read(tmp_path, (3,), output="q")
