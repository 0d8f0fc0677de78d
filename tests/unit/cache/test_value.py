"""Answers as bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cache.made import entry

from forebay.cache.entry import nbytes_of
from forebay.cache.sightings import Sightings
from forebay.cache.value import pack, unpack


@pytest.mark.parametrize("data", [b"12345678", (b"", b"abc"), ()])
def test_an_entry_and_back(data: bytes | tuple[bytes, ...]) -> None:
    kept = entry(b"key", tenant="t", tags=("a", "b"), rows=3)
    kept.data, kept.compute_s = data, 0.25
    kept.shapes = ((3, 2),) * (len(data) if isinstance(data, tuple) else 1)
    back = unpack(b"key", pack(kept))
    for name in ("key", "place", "tenant", "tags", "rows", "shapes", "data", "compute_s"):
        assert getattr(back, name) == getattr(kept, name)


@pytest.mark.parametrize("tags", [(), ("prices",), ("\U0001f600" * 128,)])
def test_what_was_an_entry_counts_as_it_did(tags: tuple[str, ...]) -> None:
    back = unpack(b"key", pack(entry(b"key", tags=tags, size=3)))
    assert back.nbytes == nbytes_of(b"key", tags, 12)


@given(st.binary(max_size=40))
def test_what_is_no_answer_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not an answer"):
        unpack(b"key", value)


@given(st.integers(0, 60))
def test_one_that_was_cut_off_is_refused(cut: int) -> None:
    value = pack(entry(b"key"))
    with pytest.raises(ValueError, match="not an answer"):
        unpack(b"key", value[: min(cut, len(value) - 1)])


def test_no_pickle() -> None:
    value = pack(entry(b"key"))
    assert b"pickle" not in value
    assert msgspec.msgpack.decode(value[4 : 4 + value[0]])[:2] == ["m", "1"]


def test_sightings_are_bounded_and_forget_the_oldest() -> None:
    sightings = Sightings(most=10)
    digests = [number.to_bytes(8, "big") for number in range(40)]
    assert not any(sightings.again(digest) for digest in digests)
    assert sightings.again(digests[-1])
    assert not sightings.again(digests[0])
