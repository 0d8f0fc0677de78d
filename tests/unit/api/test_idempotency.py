"""The Idempotency-Key header and the digest of what was asked with it."""

from __future__ import annotations

import pytest

from forebay.api.idempotency import fingerprint, item_key, read_key
from forebay.core.errors import RequestError


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b" k ", "k"),
        (b'"a \\"b\\" \\\\ c, d"', 'a "b" \\ c, d'),
        (b"k" * 255, "k" * 255),
        (b"{order:7}!", "{order:7}!"),
    ],
)
def test_quoted_and_bare_keys(value: bytes, key: str) -> None:
    assert read_key([(b"idempotency-key", value)]) == key


@pytest.mark.parametrize(
    "value", [b"", b'""', b'"a', b'a"', b"a b", b"a,b", b'"a";p=1', b"k" * 256, b"\xe9", b'"\xe9"', b"a\nb", b'"\\n"']
)
def test_a_malformed_key_is_refused(value: bytes) -> None:
    with pytest.raises(RequestError, match="Idempotency-Key"):
        read_key([(b"idempotency-key", value)])


def test_there_may_be_one_key_only() -> None:
    assert read_key([(b"host", b"test")]) == ""
    with pytest.raises(RequestError, match="more than once"):
        read_key([(b"idempotency-key", b"a"), (b"idempotency-key", b"a")])


def test_keys_of_a_batch_are_apart_from_all_others() -> None:
    assert item_key("", 3) == ""
    keys = {item_key("a", 1), item_key("a", 11), item_key("a1", 1)}
    assert len(keys) == 3
    for key in keys:
        with pytest.raises(RequestError):
            read_key([(b"idempotency-key", key.encode())])


def test_a_fingerprint_tells_where_parts_end() -> None:
    assert fingerprint(b"a", b"b") == fingerprint(b"a", b"b")
    assert len({fingerprint(b"a", b"b"), fingerprint(b"ab", b""), fingerprint(b"", b"ab"), fingerprint(b"ab")}) == 4
