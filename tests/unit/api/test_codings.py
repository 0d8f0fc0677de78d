"""Content codings: what is undone, what is refused, and which coding an answer gets."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.codings import INFLATE_STEP_BYTES, Inflater, answer_coding, coded, request_coding
from forebay.api.encode import JSON_HEADERS
from forebay.api.problems import Answer
from forebay.core.errors import RequestError

SHAPES: dict[str, Any] = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


def undone(coding: str, data: bytes, cuts: int = 1) -> bytes:
    """The plain bytes of `data`, given in pieces of `cuts` bytes."""
    inflater = Inflater(coding)
    parts = [part for at in range(0, len(data), cuts) for part in inflater.steps(data[at : at + cuts])]
    inflater.finish()
    return b"".join(parts)


@given(plain=st.binary(max_size=3000), cuts=st.integers(1, 500), coding=st.sampled_from(sorted(SHAPES)))
def test_what_was_coded_is_undone_however_it_is_cut(plain: bytes, cuts: int, coding: str) -> None:
    assert undone(coding, SHAPES[coding](plain), cuts) == plain


@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5), cuts=st.integers(1, 100))
def test_members_of_gzip_follow_each_other(parts: list[bytes], cuts: int) -> None:
    assert undone("gzip", b"".join(map(gzip.compress, parts)), cuts) == b"".join(parts)


@pytest.mark.parametrize("coding", sorted(SHAPES))
def test_a_bomb_comes_out_a_step_at_a_time(coding: str) -> None:
    inflater = Inflater(coding)
    steps = inflater.steps(SHAPES[coding](bytes(40 << 20)))
    sizes = [len(next(steps)) for _ in range(3)]
    assert sizes == [INFLATE_STEP_BYTES] * 3


@pytest.mark.parametrize("size", [0, 1, INFLATE_STEP_BYTES - 1, INFLATE_STEP_BYTES, 2 * INFLATE_STEP_BYTES + 1])
def test_nothing_is_lost_at_the_edge_of_a_step(size: int) -> None:
    plain = b"ab" * (size // 2) + b"c" * (size % 2)
    for coding, compress in SHAPES.items():
        assert undone(coding, compress(plain), 1 << 30) == plain
        assert undone(coding, compress(plain), 7) == plain


@pytest.mark.parametrize(
    ("coding", "data", "words"),
    [
        ("gzip", b"plain text, not gzip", "not gzip data"),
        ("deflate", b"plain text, not zlib", "not deflate data"),
        ("deflate", zlib.compress(b"abc")[2:-4], "not deflate data"),  # raw deflate without zlib's frame
        ("gzip", gzip.compress(b"abc", mtime=0)[:-1], "cut short"),
        ("gzip", b"", "cut short"),
        ("deflate", zlib.compress(b"abc")[:-1], "cut short"),
        ("gzip", gzip.compress(b"abc", mtime=0)[:-8] + bytes(8), "not gzip data"),  # a wrong checksum
        ("gzip", gzip.compress(b"abc", mtime=0) + b"rest", "not gzip data"),
        ("gzip", gzip.compress(b"abc", mtime=0) + gzip.compress(b"abc", mtime=0)[:5], "cut short"),
        ("deflate", zlib.compress(b"abc") + b"rest", "goes on after the end"),
    ],
)
def test_damaged_data_is_refused(coding: str, data: bytes, words: str) -> None:
    for cuts in (1, 1 << 20):
        with pytest.raises(RequestError, match=words) as caught:
            undone(coding, data, cuts)
        assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("lines", "coding"),
    [
        ([], None),
        ([b""], None),
        ([b"identity"], None),
        ([b" Identity , "], None),
        ([b"gzip"], "gzip"),
        ([b"GZip"], "gzip"),
        ([b"x-gzip"], "x-gzip"),
        ([b"deflate"], "deflate"),
        ([b"identity, deflate"], "deflate"),
        ([b"identity", b"gzip"], "gzip"),
    ],
)
def test_the_coding_of_a_request(lines: list[bytes], coding: str | None) -> None:
    headers = [(b"content-type", b"gzip"), *((b"content-encoding", line) for line in lines)]
    assert request_coding(headers) == coding


@pytest.mark.parametrize(
    "lines", [[b"br"], [b"zstd"], [b"gzip, gzip"], [b"gzip", b"deflate"], [b"\xff"], [b"gzip;q=1"]]
)
def test_other_codings_are_refused_by_name(lines: list[bytes]) -> None:
    with pytest.raises(RequestError, match="Content-Encoding") as caught:
        request_coding([(b"content-encoding", line) for line in lines])
    assert caught.value.code == "unsupported_encoding"


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br, zstd", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "gzip"),
        ("GZIP ; Q=1.0", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("*, gzip;q=0", "deflate"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("identity;q=0", None),
        ("gzip;q=nan", None),
        ("gzip;q=2", None),
        ("gzip;q=", None),
        ("gzip;a=b;q=0.5, deflate;q=0.1", "gzip"),
        (",,;;q=1,=", None),
    ],
)
def test_the_coding_of_an_answer(accept: str | None, coding: str | None) -> None:
    headers = [(b"host", b"gzip")] + ([] if accept is None else [(b"accept-encoding", accept.encode())])
    assert answer_coding(headers) == coding


@given(value=st.binary(max_size=60))
def test_no_header_value_upsets_the_choice(value: bytes) -> None:
    assert answer_coding([(b"accept-encoding", value)]) in (None, "gzip", "deflate")


def ended(answer: Answer, accept: bytes) -> tuple[Answer, int]:
    """The coded answer and the number of steps that it took."""
    steps, count = coded(answer, [(b"accept-encoding", accept)]), 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            found: Any = end.value
            return found, count


def test_an_answer_is_coded_in_steps() -> None:
    plain = Answer(200, JSON_HEADERS, b"0.25," * 40_000)
    for accept, undo in ((b"gzip", gzip.decompress), (b"deflate", zlib.decompress)):
        answer, steps = ended(plain, accept)
        assert undo(answer.body) == plain.body
        assert steps > 5
        assert len(answer.body) < len(plain.body) / 10
        headers = dict(answer.headers)
        assert headers[b"content-encoding"] == accept
        assert headers[b"vary"] == b"accept-encoding"


@pytest.mark.parametrize("accept", [b"identity", b"br", b"gzip;q=0"])
def test_an_answer_that_nobody_wants_coded_stays_but_says_that_it_might_differ(accept: bytes) -> None:
    plain = Answer(200, JSON_HEADERS, b"0.25," * 40_000)
    answer, steps = ended(plain, accept)
    assert (answer.body, steps) == (plain.body, 0)
    assert dict(answer.headers) == {b"content-type": b"application/json", b"vary": b"accept-encoding"}


def test_an_answer_that_would_grow_stays() -> None:
    import random

    plain = Answer(200, JSON_HEADERS, random.Random(1).randbytes(100_000))
    assert ended(plain, b"gzip")[0].body == plain.body
    assert b"content-encoding" not in dict(ended(plain, b"gzip")[0].headers)
