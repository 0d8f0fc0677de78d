"""What a model with `cascade` needs, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engine.cascade_rig import SIGNATURE, calibration

from forebay.cascade.policy import CascadeRules, rules_for
from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature


def read(
    tmp_path: Path, signature: Signature = SIGNATURE, streams: bool = False, **changes: Any
) -> CascadeRules | None:
    file = tmp_path / "cascade.json"
    file.write_bytes(msgspec.json.encode(calibration(**changes.pop("found", {}))))
    settings = ModelSettings(**{"cascade": file, **changes})
    return rules_for("large", settings, signature, streams=streams)


def test_without_a_file_there_is_no_student(tmp_path: Path) -> None:
    assert read(tmp_path, cascade=None) is None


def test_the_file_names_the_student_unless_it_is_served_under_another_name(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found is not None
    assert (found.student, found.shadow_rate) == ("small", 0.02)
    named = read(tmp_path, cascade_student="other/2", cascade_shadow_rate=0.1)
    assert named is not None
    assert (named.student, named.shadow_rate) == ("other/2", 0.1)


def test_what_may_be_wrong_is_shared_by_the_rows_that_it_answers(tmp_path: Path) -> None:
    found = read(tmp_path, found={"agreement": 0.99, "rows": 1000, "answered": 500})
    assert found is not None
    assert found.allowed == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cascade": None, "cascade_student": "small"}, "cascade_student = 'small' needs a calibration; measure with"),
        ({"cascade": Path("none.json")}, "the calibration none.json cannot be read"),
        ({"cascade_student": "large"}, "its student is 'large', the model itself; set large.cascade_student"),
        ({"cascade_student": "large/2"}, "its student is 'large/2', the model itself"),
        ({"streams": True}, "a cascade decides row by row, and it yields its answer in pieces"),
        ({"signature": msgspec.structs.replace(SIGNATURE, batched=False)}, "one request at a time"),
        ({"found": {"output": "q"}}, "is about output 'q', and the model has by, p; calibrate anew"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        read(tmp_path, **changes)
