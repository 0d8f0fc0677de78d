"""What of the Prefer header is understood, and what is passed over."""

from __future__ import annotations

import pytest

from forebay.api.prefer import NO_PREFERENCES, Preferences, applied, read_preferences


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((), NO_PREFERENCES),
        ((b"",), NO_PREFERENCES),
        ((b"respond-async",), Preferences(True)),
        ((b"Respond-Async",), Preferences(True)),
        ((b"wait=10",), Preferences(wait_s=10)),
        ((b"WAIT = 10",), Preferences(wait_s=10)),
        ((b'wait="10"',), Preferences(wait_s=10)),
        ((b"wait=0",), Preferences(wait_s=0)),
        ((b"respond-async, wait=10",), Preferences(True, 10)),
        ((b"respond-async", b"wait=10"), Preferences(True, 10)),
        ((b"wait=10; a=b, respond-async",), Preferences(True, 10)),
        ((b'foo="a, wait=3"; x="y,z", wait=4',), Preferences(wait_s=4)),
        ((b'foo="\\", wait=3", wait=4',), Preferences(wait_s=4)),
        # Of one that stands twice the first counts (RFC 7240, 2).
        ((b"wait=5, wait=7",), Preferences(wait_s=5)),
        # More than the server would wait is shortened.
        ((b"wait=61",), Preferences(wait_s=60)),
        ((b"wait=99999999999999999999",), Preferences(wait_s=60)),
        ((b"wait", b"wait=-1"), NO_PREFERENCES),
        ((b"wait=-1",), NO_PREFERENCES),
        ((b"wait=1.5",), NO_PREFERENCES),
        ((b"wait=soon, return=minimal",), NO_PREFERENCES),
        ((b"wait=\xb2",), NO_PREFERENCES),
        ((b'wait="10',), NO_PREFERENCES),
        ((b'", respond-async',), Preferences(True)),
        ((b"respond-async" + b", x" * 400,), NO_PREFERENCES),
    ],
)
def test_preferences(values: tuple[bytes, ...], found: Preferences) -> None:
    headers = [(b"host", b"test"), *((b"prefer", value) for value in values)]
    assert read_preferences(headers) == found


def test_what_was_applied_is_told() -> None:
    assert applied(None) == ()
    assert applied(3) == ((b"preference-applied", b"wait=3"),)
    assert applied(3, respond_async=True) == ((b"preference-applied", b"respond-async, wait=3"),)
    assert applied(None, respond_async=True) == ((b"preference-applied", b"respond-async"),)
