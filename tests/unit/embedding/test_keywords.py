"""Who calls from Python reads of keyword arguments, not of the command's options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.api.auth import Keys, check_bind
from forebay.core.errors import SetupError
from forebay.core.settings_sources import flag_name
from forebay.embedding.composition import settings_of
from forebay.embedding.keywords import DOTTED, in_python, keyword_of, python_words


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x")
    return str(path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port": "many"}, "keyword argument port: port cannot be 'many'"),
        ({"log_level": "loud"}, "keyword argument log_level: level cannot be 'loud'"),
        ({"jobs_lease_s": -1}, "keyword argument jobs_lease_s: lease_s cannot be -1"),
        ({"store": "redis://"}, "keyword argument store: store cannot be 'redis://'"),
        ({"slo_ms": -1}, "keyword argument slo_ms: slo_ms cannot be -1"),
        ({"model_settings": {"net": {"slo_ms": -1}}}, "model_settings['net']['slo_ms']: slo_ms cannot be -1"),
        ({"model_settings": {"nett": {"slo_ms": 1}}}, "model_settings['nett']['slo_ms']: settings for model 'nett'"),
        ({"model_settings": [1]}, "model_settings must be settings by model, such as"),
        ({"model_settings": {"net": 1}}, "model_settings['net'] must be settings by name, not 1"),
        ({"model_settings": {"net": {"slo": 1}}}, "model_settings['net']['slo']: unknown key of model 'net': 'slo'"),
    ],
)
def test_a_wrong_value_is_named_as_it_was_written(model: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SetupError, match=re.escape(said)) as found:
        forebay.create_app(model, **settings)
    assert "--" not in found.value.message


def test_the_mend_is_python_too(model: str) -> None:
    mend = r"start with api_keys keys\.txt.* or say insecure_no_auth=True$"
    with pytest.raises(SetupError, match=mend), python_words():
        check_bind("0.0.0.0", Keys({}), insecure_no_auth=False)
    with pytest.raises(SetupError, match=r"^name many goes with exactly one MODEL"):
        forebay.create_app(model, model, name="many")


def test_every_option_has_its_keyword() -> None:
    for keyword, dotted in DOTTED.items():
        assert in_python(f"see {flag_name(dotted)}").removesuffix("=True") == f"see {keyword}"
        assert keyword_of(dotted) == f"keyword argument {keyword}"


def test_settings_of_one_model() -> None:
    message = "trust it with --set net.allow_pickle=true, or use --set; forebay keys new NAME --file keys.txt"
    assert in_python(message) == (
        "trust it with model_settings={'net': {'allow_pickle': True}}, or use model_settings; "
        "forebay keys new NAME --file keys.txt"
    )
    assert in_python("--set net.trusted_types=a.B,c.D") == "model_settings={'net': {'trusted_types': 'a.B,c.D'}}"


def test_none_is_a_value_like_any_other(model: str, tmp_path: Path) -> None:
    beside = tmp_path / "net.toml"
    beside.write_text("slo_ms = 7\nmemory_bytes = 1000\n")
    loaded = settings_of({"slo_ms": None}, {"net": {"memory_bytes": None}}, None, None)
    found = loaded.model("net", {}, beside)
    assert (found.slo_ms, found.memory_bytes) == (None, None)
    with pytest.raises(SetupError, match="port cannot be 'none'"):
        settings_of({"port": None}, None, None, None)
