"""What is measured is what the measured servers are told to serve: what they learn is found under its digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.cli.flags import shown_value
from forebay.cli.tune import _journal
from forebay.core.settings_sources import load_settings
from forebay.engine.costs_file import CostsFile
from forebay.models.source import digest_of, open_source
from forebay.tune.inputs import Tokenizer
from forebay.tune.slo import parse_slo
from forebay.tune.subject import open_subject

MODEL = """
import forebay

class Net(forebay.Model):
    inputs = {"x": ("FP32", [2])}
    outputs = {"y": ("FP32", [2])}
"""


@pytest.mark.parametrize("weights", ["", "weights.bin"])
def test_a_python_model_of_a_repository_has_the_digest_that_its_server_gives_it(tmp_path: Path, weights: str) -> None:
    folder = tmp_path / "repo" / "net" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    if weights:
        (folder / weights).write_bytes(b"one")
    loaded = load_settings(config_file=None, environ={}, flags={}, sets=[], folder=tmp_path)
    subject = open_subject(str(tmp_path / "repo"), None, loaded, None, lambda value, key: str(value))
    served = open_source(subject.artefact.arguments[0], "net")
    assert subject.artefact.digest == digest_of(served)
    measured = CostsFile(tmp_path, served, digest_of(served), 1)
    measured._put({"costs": 1})
    looked_for = CostsFile(tmp_path, subject.artefact.source, subject.artefact.digest, 1)
    assert [entry["costs"] for _, entry in looked_for._entries()] == [1]
    assert subject.settings_file == tmp_path / "repo" / "net" / "model.toml"


def test_nobody_answers_in_place_of_the_model_that_is_measured(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    sets = ["net.cascade=cascade.json", "net.cache=exact", "net.slo_ms=50"]
    loaded = load_settings(config_file=None, environ={}, flags={}, sets=sets, folder=tmp_path)
    subject = open_subject(f"{tmp_path / 'net.py'}:Net", None, loaded, None, shown_value)
    told = subject.artefact.arguments
    assert {"net.cascade=none", "net.variants=none", "net.cache=off", "net.slo_ms=50"} <= set(told)
    assert not any("cascade.json" in part for part in told)


def test_what_another_tokenizer_has_measured_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    tokenizer = tmp_path / "tokenizer.json"
    loaded = load_settings(config_file=None, environ={}, flags={"data_dir": str(tmp_path)}, sets=[], folder=tmp_path)

    def journal(content: str) -> Path:
        tokenizer.write_text(content)
        one = open_subject(
            f"{tmp_path / 'net.py'}:Net", None, loaded, None, shown_value, Tokenizer(str(tokenizer), 256)
        )
        return _journal(loaded, {"net": one}, [], parse_slo("p99=50ms"), None, False).path

    first = journal("{}")
    assert journal('{"version": "1.0"}') != first
    assert journal("{}") == first
