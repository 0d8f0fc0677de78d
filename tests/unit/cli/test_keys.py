"""`forebay keys`."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.api.auth import Keys
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.cli import keys
from forebay.core.errors import SetupError


def new(*arguments: str) -> str:
    done = CliRunner().invoke(keys.app, ["new", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def secret_in(text: str) -> bytes:
    (secret,) = re.findall(r"fb_[\w-]{43}", text)
    assert isinstance(secret, str)
    return b"Bearer " + secret.encode()


def test_new_prints_the_secret_and_its_line() -> None:
    printed = new("alice")
    (line,) = re.findall(r"alice:[0-9a-f]{64}", printed)
    assert Keys.parse(line, "x").authenticate(secret_in(printed)) == "alice"


def test_file_gets_the_line_and_never_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    first, second = new("alice", "--file", str(file)), new("bob", "--file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "fb_" not in file.read_text()
    loaded = Keys.load(file, None)
    assert loaded.authenticate(secret_in(first)) == "alice"
    assert loaded.authenticate(secret_in(second)) == "bob"


def test_a_last_line_without_its_end_is_ended_first(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("bob:" + "a" * 64)
    new("alice", "--file", str(file))
    assert Keys.load(file, None).names() == ["bob", "alice"]


def test_a_name_that_stands_already_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    new("alice", "--file", str(file))
    before = file.read_text()
    with pytest.raises(SetupError, match="has a key named 'alice' already; take another name or remove its line"):
        new("alice", "--file", str(file))
    assert file.read_text() == before


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes\n")
    with pytest.raises(SetupError, match=r"notes\.txt line 1: is not NAME:SHA256HEX"):
        new("alice", "--file", str(file))
    assert file.read_text() == "my notes\n"
    with pytest.raises(SetupError, match="cannot be written: No such file or directory"):
        new("alice", "--file", str(tmp_path / "no" / "keys.txt"))


def test_a_bad_name_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be used"):
        new("a:b", "--file", str(tmp_path / "keys.txt"))
    assert not (tmp_path / "keys.txt").exists()


def webhook(*arguments: str) -> str:
    done = CliRunner().invoke(keys.app, ["webhook", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    (secret,) = re.findall(r"^secret: (whsec_\S+)$", done.stdout, re.MULTILINE)
    assert isinstance(secret, str)
    return secret


def test_a_secret_of_webhooks_is_printed_for_the_receivers() -> None:
    first, second = webhook(), webhook()
    assert first != second
    assert len(WebhookSecrets.parse(f"{first}\n{second}", "x")) == 2


def test_secrets_of_webhooks_are_added_to_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.txt"
    first, second = webhook("--file", str(file)), webhook("--file", str(file))
    assert file.read_text() == f"{first}\n{second}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(WebhookSecrets.load(None, file)) == 2


def test_a_file_of_api_keys_gets_no_secret_of_webhooks(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    new("alice", "--file", str(file))
    before = file.read_text()
    with pytest.raises(SetupError, match=r"keys\.txt line 1: is not whsec_"):
        webhook("--file", str(file))
    assert file.read_text() == before
