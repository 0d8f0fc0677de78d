"""`forebay config show` and the flags that are made from the settings tree."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from forebay.cli import config
from forebay.cli.flags import FLAG_KEYS, GivenSettings, shown_value, takes_settings
from forebay.core.errors import SetupError
from forebay.core.settings_sources import flag_name
from forebay.core.settings_values import CACHE_KEYS, JOB_KEYS, LOG_KEYS, ROOT_KEYS, SERVER_KEYS

MODEL = """
import forebay

class Mlp(forebay.Model):
    inputs = {"x": ("FP32", [4])}
    outputs = {"y": ("FP32", [4])}
    slo_ms = 50
    threads = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("FOREBAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(*arguments: str) -> dict[str, tuple[object, str]]:
    """Key to (value, source)."""
    done = CliRunner().invoke(config.app, ["show", "--json", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}


def test_plain_settings_and_their_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "forebay.toml").write_text("[server]\nport = 1\nmax_body_bytes = '1MiB'\n[log]\nlevel = 'error'\n")
    monkeypatch.setenv("FOREBAY_LOG__LEVEL", "debug")
    rows = show("--host", "0.0.0.0", "--insecure-no-auth", "--data-dir", "d")
    assert rows["server.port"] == (1, "forebay.toml:server.port")
    assert rows["server.max_body_bytes"] == (1 << 20, "forebay.toml:server.max_body_bytes")
    assert rows["log.level"] == ("debug", "FOREBAY_LOG__LEVEL")
    assert rows["server.host"] == ("0.0.0.0", "--host")
    assert rows["server.insecure_no_auth"] == (True, "--insecure-no-auth")
    assert rows["data_dir"] == ("d", "--data-dir")
    assert rows["server.api_keys"] == (None, "default")


def test_a_python_model_with_class_attributes_and_sidecar(folder: Path) -> None:
    (folder / "mlp_file.py").write_text(MODEL)
    (folder / "model.toml").write_text("threads = 3")
    rows = show("mlp_file.py:Mlp", "--devices", "cuda:0,cuda:1", "--set", "mlp.max_batch_rows=8")
    assert rows["models.mlp.slo_ms"] == (50.0, "class attribute slo_ms of mlp")
    value, source = rows["models.mlp.threads"]
    assert (value, source.rpartition("/")[2]) == (3, "model.toml:threads")
    assert rows["models.mlp.devices"] == (["cuda:0", "cuda:1"], "--devices")
    assert rows["models.mlp.max_batch_rows"] == (8, "--set mlp.max_batch_rows")


def test_without_models_those_that_the_sources_name(folder: Path) -> None:
    (folder / "forebay.toml").write_text("models.a.threads = 2")
    rows = show("--set", "b.threads=3")
    assert rows["models.a.threads"][0] == 2
    assert rows["models.b.threads"][0] == 3


def test_settings_of_a_model_not_given_are_refused(folder: Path) -> None:
    (folder / "mlp_file.py").write_text(MODEL)
    with pytest.raises(SetupError, match="model 'mpl', which is not served; served: mlp; did you mean 'mlp'"):
        show("mlp_file.py:Mlp", "--set", "mpl.threads=3")


def test_a_bad_model_of_a_repository_is_named_and_the_others_are_shown(folder: Path) -> None:
    for name, text in (("bad", "threads = 'many'"), ("good", "threads = 3"), ("worse", "class = 1")):
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "model.toml").write_text(text)
    done = CliRunner().invoke(config.app, ["show", "--json", "models"], catch_exceptions=False)
    rows = {row["key"]: row["value"] for row in json.loads(done.stdout)}
    assert rows["models.good.threads"] == 3
    assert not any(key.startswith(("models.bad.", "models.worse.")) for key in rows)
    assert done.exit_code == 2
    worse, bad = done.stderr.splitlines()
    assert "threads cannot be 'many'" in bad
    assert worse.startswith("error: model worse: ")


def test_a_bad_model_that_is_named_itself_stops_all(folder: Path) -> None:
    (folder / "mlp_file.py").write_text(MODEL)
    (folder / "model.toml").write_text("threads = 'many'")
    with pytest.raises(SetupError, match="threads cannot be 'many'"):
        show("mlp_file.py:Mlp")


def test_table_for_people(folder: Path) -> None:
    done = CliRunner().invoke(config.app, ["show", "--port", "9"], catch_exceptions=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["server.port", "9", "--port"] in lines
    assert ["server.max_body_bytes", "64MiB", "default"] in lines


def test_a_piped_table_has_one_line_a_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "x/" * 60
    done = CliRunner().invoke(config.app, ["show", "--data-dir", path], catch_exceptions=False)
    assert ["data_dir", path.rstrip("/"), "--data-dir"] in [line.split() for line in done.stdout.splitlines()]


def test_keys_in_the_environment_are_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_API_KEYS", "alice:" + "ab" * 32)
    monkeypatch.setenv("FOREBAY_WEBHOOK_SECRETS", "whsec_" + "cd" * 32)
    assert show()["server.api_keys"] == ("***", "FOREBAY_API_KEYS")
    assert show()["jobs.webhook_secrets"] == ("***", "FOREBAY_WEBHOOK_SECRETS")
    for extra in ([], ["--json"]):
        shown = CliRunner().invoke(config.app, ["show", *extra]).output
        assert "ab" * 32 not in shown
        assert "cd" * 32 not in shown


def test_a_password_of_the_store_is_not_shown(folder: Path) -> None:
    for extra in ([], ["--json"]):
        arguments = ["show", "--store", "rediss://me:s3cret@db.example:6380/1?password=s3cret", *extra]
        shown = CliRunner().invoke(config.app, arguments).output
        assert "rediss://me:***@db.example:6380/1?password=***" in shown
        assert "s3cret" not in shown


def test_every_plain_key_has_a_flag_of_its_own() -> None:
    sections = {"server": SERVER_KEYS, "log": LOG_KEYS, "jobs": JOB_KEYS, "cache": CACHE_KEYS}
    plain = {f"{section}.{name}" for section, keys in sections.items() for name in keys} | set(ROOT_KEYS)
    assert plain == set(FLAG_KEYS) - {"models.*.devices"}
    assert len({flag_name(dotted) for dotted in FLAG_KEYS}) == len(FLAG_KEYS)


@pytest.mark.parametrize("dotted", FLAG_KEYS)
def test_each_flag_reaches_its_key(dotted: str) -> None:
    seen: list[GivenSettings] = []
    app = typer.Typer()

    @app.command()
    @takes_settings
    def command(words: Annotated[list[str], typer.Argument()], *, given: GivenSettings) -> None:
        """A command with an argument of its own."""
        assert words == ["a", "b"]
        seen.append(given)

    flag = FLAG_KEYS[dotted].accepted == "true or false"
    arguments = [flag_name(dotted)] if flag else [flag_name(dotted), "value"]
    done = CliRunner().invoke(app, ["a", "b", "--config", "f", "--set", "m.k=1", "--set", "m.l=2", *arguments])
    assert done.exit_code == 0, done.output
    assert {key: value for key, value in seen[0].flags.items() if value is not None} == {
        dotted: True if flag else "value"
    }
    assert (seen[0].config_file, seen[0].sets) == (Path("f"), ("m.k=1", "m.l=2"))


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (None, "slo_ms", "none"),
        (True, "pad", "true"),
        (64 << 20, "max_body_bytes", "64MiB"),
        (3 << 29, "max_body_bytes", "1536MiB"),
        (1000, "max_body_bytes", "1000"),
        (0, "max_body_bytes", "0"),
        (2 << 30, "models.m.memory_bytes", "2GiB"),
        (1000, "max_queue_rows", "1000"),
        (0.5, "slo_ms", "0.5"),
        (2_592_000.0, "max_retention_s", "2592000"),
        (("cpu", "cuda:0"), "devices", "cpu,cuda:0"),
        (Path("x"), "data_dir", "x"),
    ],
)
def test_values_for_people(value: object, name: str, text: str) -> None:
    assert shown_value(value, name) == text
