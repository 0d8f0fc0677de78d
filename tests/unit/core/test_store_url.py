"""URLs of a store of jobs: which are known, and that no password of one is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.store_url import is_store_url, masked_url


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("redis://localhost", True),
        ("redis://:pw@10.0.0.1:6380/2", True),
        ("rediss://user:pw@host:6380?db=1", True),
        ("unix:///run/valkey.sock", True),
        ("redis+sentinel://a:1,b:2/main", True),
        ("rediss+cluster://a:1,b:2", True),
        ("redis://", False),
        ("redis:///1", False),
        ("unix://", False),
        ("valkey://host", False),
        ("amqp://host", False),
        ("localhost:6379", False),
        ("redis://[::1", False),
        ("", False),
    ],
)
def test_forms(url: str, known: bool) -> None:
    assert is_store_url(url) is known


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("redis://user:pw@host", "redis://user:***@host"),
        ("redis://:pw@host", "redis://:***@host"),
        ("redis://token@host", "redis://***@host"),
        ("redis://user:p/w?x#@y@host", "redis://user:***@host"),
        ("unix:///tmp/a:b@c/s.sock", "unix:///tmp/a:b@c/s.sock"),
        ("unix://me:pw@/s.sock?db=1&password=pw", "unix://me:***@/s.sock?db=1&password=***"),
        (
            "redis+sentinel://a:1,b:2/m?sentinel_password=pw&db=2",
            "redis+sentinel://a:1,b:2/m?sentinel_password=***&db=2",
        ),
        ("unix://me:p/w@/s.sock", "unix://me:***@/s.sock"),
        ("nonsense", "nonsense"),
    ],
)
def test_shown_without_the_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+cluster", "odd"]),
    password=st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"<{text}>"),
)
def test_no_password_is_ever_shown(scheme: str, password: str) -> None:
    assert password not in masked_url(f"{scheme}://user:{password}@host/0")
