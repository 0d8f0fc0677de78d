"""One value at a time: what is accepted, how it is read, and what the error says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.core.errors import SetupError
from forebay.core.settings_values import (
    JOB_KEYS,
    LOG_KEYS,
    MODEL_KEYS,
    ROOT_KEYS,
    SERVER_KEYS,
    did_you_mean,
    read_value,
    shown,
    size_in_bytes,
)

KEYS = {**SERVER_KEYS, **LOG_KEYS, **JOB_KEYS, **MODEL_KEYS, **ROOT_KEYS}


@pytest.mark.parametrize(
    ("word", "size_bytes"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("10b", 10),
        ("2kB", 2000),
        ("2KiB", 2048),
        ("256MiB", 256 << 20),
        ("256 mib", 256 << 20),
        ("3GB", 3 * 10**9),
        ("1TiB", 1 << 40),
        ("1.5GiB", 3 << 29),
        ("0.3KiB", None),
        ("1.5", None),
        ("-1", None),
        ("12M", None),
        ("MiB", None),
        ("1e6", None),
        ("", None),
    ],
)
def test_sizes(word: str, size_bytes: int | None) -> None:
    assert size_in_bytes(word) == size_bytes


@pytest.mark.parametrize(
    ("name", "raw", "text", "value"),
    [
        ("port", "9000", True, 9000),
        ("port", 0, False, 0),
        ("max_body_bytes", "16MiB", False, 16 << 20),
        ("max_body_bytes", "16MiB", True, 16 << 20),
        ("max_body_bytes", 16, False, 16),
        ("memory_bytes", "none", False, None),
        ("memory_bytes", "2GiB", False, 2 << 30),
        ("slo_ms", "None", True, None),
        ("slo_ms", 50, False, 50.0),
        ("slo_ms", " 12.5 ", True, 12.5),
        ("insecure_no_auth", "true", True, True),
        ("insecure_no_auth", "0", True, False),
        ("insecure_no_auth", True, False, True),
        ("pad", "none", False, None),
        ("pad", "false", True, False),
        ("batching", "off", True, "off"),
        ("cache", "off", True, "off"),
        ("cache", "exact", True, "exact"),
        ("devices", "cuda:0, cuda:1", True, ("cuda:0", "cuda:1")),
        ("devices", ["cpu"], False, ("cpu",)),
        ("devices", ("cpu",), False, ("cpu",)),
        ("devices", "cpu", False, ("cpu",)),
        ("data_dir", "x/y", True, Path("x/y")),
        ("data_dir", Path("x"), False, Path("x")),
        ("api_keys", "none", False, None),
    ],
)
def test_good_values(name: str, raw: object, text: bool, value: object) -> None:
    setting = read_value(KEYS[name], raw, source="here", text=text)
    assert (setting.value, type(setting.value), setting.source) == (value, type(value), "here")


BAD: list[tuple[str, Any, bool, str]] = [
    ("port", 70000, False, "a whole number from 0 to 65535"),
    ("port", "80a", True, "a whole number from 0 to 65535"),
    ("port", "", True, "a whole number from 0 to 65535"),
    ("port", "8000", False, "a whole number from 0 to 65535"),
    ("port", True, False, "a whole number from 0 to 65535"),
    ("port", 10**40, False, "a whole number from 0 to 65535"),
    ("host", "", False, "text"),
    ("host", 5, False, "text"),
    ("threads", 0, False, "a whole number from 1 to 1024, or auto"),
    ("threads", 1.5, False, "a whole number from 1 to 1024, or auto"),
    ("threads", "none", True, "a whole number from 1 to 1024, or auto"),
    ("instances", "few", True, "a whole number from 1 to 1024, or auto, or none"),
    ("slo_ms", 0, False, "milliseconds above 0, or none"),
    ("slo_ms", "inf", True, "milliseconds above 0, or none"),
    ("slo_ms", float("nan"), False, "milliseconds above 0, or none"),
    ("slo_ms", float("inf"), False, "milliseconds above 0, or none"),
    ("warm_up_s", -1, False, "seconds, 0 or more"),
    ("requests_per_s", 0, False, "a number above 0, or none"),
    ("max_body_bytes", "64 megs", False, "a size, such as 1048576 or 1MiB"),
    ("max_body_bytes", -1, False, "a size, such as 1048576 or 1MiB"),
    ("memory_bytes", "lots", False, "a size, such as 1048576 or 1MiB, or none"),
    ("insecure_no_auth", "maybe", True, "true or false"),
    ("insecure_no_auth", 1, False, "true or false"),
    ("batching", "auot", True, "one of auto, off; did you mean 'auto'?"),
    ("level", "warn", False, "one of debug, info, warning, error; did you mean 'warning'?"),
    ("devices", [], False, "a list of names"),
    ("devices", [""], False, "a list of names"),
    ("devices", "cpu,", True, "a list of names"),
    ("devices", 3, False, "a list of names"),
    ("threads", 1025, False, "a whole number from 1 to 1024, or auto"),
    ("max_batch_rows", 65_537, False, "a whole number from 1 to 65536"),
    ("max_queue_delay_ms", 3_600_001, False, "milliseconds from 0 to 3600000"),
    ("lease_s", 0.01, False, "seconds from 0.1 to 86400"),
    ("lease_s", 1e308, False, "seconds from 0.1 to 86400"),
    ("retention_s", 1e308, False, "seconds above 0, at most 315360000"),
    ("max_attempts", 10**30, False, "a whole number from 1 to 1024"),
    ("drain_timeout_s", 1e10, False, "seconds from 0 to 86400"),
    ("data_dir", "a\0b", False, "a path"),
    ("data_dir", 3, False, "a path"),
    ("data_dir", "", True, "a path"),
    ("data_dir", None, False, "a path"),
]


def test_a_number_of_thousands_of_digits_and_the_home_of_nobody_are_told_like_any_other() -> None:
    with pytest.raises(SetupError, match="x: threads cannot be a number of too many digits; accepted: a whole number"):
        read_value(KEYS["threads"], 16**5000, source="x", text=False)
    with pytest.raises(SetupError, match="x: data_dir cannot be '~nosuchuser/x': "):
        read_value(KEYS["data_dir"], "~nosuchuser/x", source="x", text=True)


@pytest.mark.parametrize(("name", "raw", "text", "accepted"), BAD)
def test_bad_values_say_source_key_value_and_what_is_accepted(name: str, raw: Any, text: bool, accepted: str) -> None:
    with pytest.raises(SetupError) as caught:
        read_value(KEYS[name], raw, source="forebay.toml:somewhere", text=text)
    message = caught.value.message
    assert message.startswith(f"forebay.toml:somewhere: {name} cannot be {raw!r}; accepted: {accepted}")
    assert caught.value.code == "config_error"


def test_paths_are_taken_from_the_given_folder() -> None:
    given = read_value(ROOT_KEYS["data_dir"], "data", source="x", text=False, folder=Path("/etc/forebay"))
    assert given.value == Path("/etc/forebay/data")
    absolute = read_value(ROOT_KEYS["data_dir"], "/data", source="x", text=False, folder=Path("/etc/forebay"))
    assert absolute.value == Path("/data")


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    read = read_value(ROOT_KEYS["data_dir"], "~/data", source="x", text=True)
    assert read.value == Path("/home/someone/data")


def test_what_looks_like_a_key_is_not_shown() -> None:
    assert "fb_" not in shown("fb_" + "x" * 43)
    assert "aaaa" not in shown("alice:" + "a" * 64)
    assert shown("x" * 500) == "'" + "x" * 79 + "..."


def test_nearest_name() -> None:
    assert did_you_mean("Prot", ["port", "host"]) == "; did you mean 'port'?"
    assert did_you_mean("zzzz", ["port", "host"]) == ""
