"""API keys and secrets of webhooks, which come as lines or as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.test_settings_sources import load, source_of

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("sources", "file", "lines", "source"),
    [
        ({"toml": "server.api_keys = '/k'"}, Path("/k"), None, "forebay.toml:server.api_keys"),
        ({"toml": "server.api_keys = '/k'", "environ": {"FOREBAY_API_KEYS": "L"}}, None, "L", "FOREBAY_API_KEYS"),
        ({"environ": {"FOREBAY_API_KEYS": "L"}, "flags": {"server.api_keys": "f"}}, Path("f"), None, "--api-keys"),
        ({"environ": {"FOREBAY_API_KEYS": ""}}, None, "", "FOREBAY_API_KEYS"),
    ],
)
def test_api_keys_come_as_lines_or_as_a_file(
    tmp_path: Path, sources: dict[str, Any], file: Path | None, lines: str | None, source: str
) -> None:
    loaded = load(tmp_path, **sources)
    assert (loaded.settings.server.api_keys, loaded.api_key_lines) == (file, lines)
    assert source_of(loaded, "server.api_keys").replace(f"{tmp_path}/", "") == source


@pytest.mark.parametrize(
    ("sources", "file", "lines", "source"),
    [
        ({}, None, None, "default"),
        ({"toml": "jobs.webhook_secrets = '/s'"}, Path("/s"), None, "forebay.toml:jobs.webhook_secrets"),
        (
            {"toml": "jobs.webhook_secrets = '/s'", "environ": {"FOREBAY_WEBHOOK_SECRETS": "L"}},
            None,
            "L",
            "FOREBAY_WEBHOOK_SECRETS",
        ),
        (
            {"environ": {"FOREBAY_WEBHOOK_SECRETS": "L"}, "flags": {"jobs.webhook_secrets": "f"}},
            Path("f"),
            None,
            "--jobs-webhook-secrets",
        ),
    ],
)
def test_secrets_of_webhooks_come_as_lines_or_as_a_file(
    tmp_path: Path, sources: dict[str, Any], file: Path | None, lines: str | None, source: str
) -> None:
    loaded = load(tmp_path, **sources)
    assert (loaded.settings.jobs.webhook_secrets, loaded.webhook_secret_lines) == (file, lines)
    assert source_of(loaded, "jobs.webhook_secrets").replace(f"{tmp_path}/", "") == source


def test_rows_never_hold_the_lines(tmp_path: Path) -> None:
    secret = "whsec_" + "ab" * 32
    loaded = load(tmp_path, environ={"FOREBAY_API_KEYS": f"alice:{HEX}", "FOREBAY_WEBHOOK_SECRETS": secret})
    for shown in (repr(loaded.rows()), repr(loaded), repr(loaded.settings)):
        assert HEX not in shown
        assert secret not in shown
