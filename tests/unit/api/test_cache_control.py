"""Request headers of the cache."""

from __future__ import annotations

import pytest

from forebay.api.cache_control import LONGEST_TAG, MOST_TAGS, ask_of, told
from forebay.core.caching import JOINED, MISSED, USUAL_ASK, CacheAsk, CacheNote
from forebay.core.errors import RequestError


@pytest.mark.parametrize(
    ("control", "ask"),
    [
        (b"", USUAL_ASK),
        (b"no-cache", CacheAsk(use="refresh")),
        (b"No-Store", CacheAsk(use="off")),
        (b"only-if-cached", CacheAsk(use="only")),
        (b"no-cache, no-store", CacheAsk(use="off")),
        (b"only-if-cached , max-age=60", CacheAsk(use="only", max_age_s=60.0)),
        (b"no-cache, only-if-cached", CacheAsk(use="only", max_age_s=-1.0)),
        (b"no-store, only-if-cached", CacheAsk(use="only", keeps=False)),
        (b'max-age="5"', CacheAsk(max_age_s=5.0)),
        (b"max-age=5, max-age=7", CacheAsk(max_age_s=5.0)),
        (b"max-age=soon", CacheAsk(max_age_s=0.0)),
        (b"max-age=\xb2", CacheAsk(max_age_s=0.0)),
        (b"max-age = 5", CacheAsk(max_age_s=5.0)),
        (b"max-age=" + b"9" * 5000, CacheAsk(max_age_s=2.0**31)),
        (b"max-age=" + b"0" * 5000 + b"7", CacheAsk(max_age_s=7.0)),
        (b"max-age=-1", CacheAsk(max_age_s=0.0)),
        (b"max-age", CacheAsk(max_age_s=0.0)),
        (b'foo="a, no-store, \\", no-cache", bar', USUAL_ASK),
        (b'no-cache="x"', CacheAsk(use="refresh")),
        (b"public, immutable", USUAL_ASK),
    ],
)
def test_directives(control: bytes, ask: CacheAsk) -> None:
    assert ask_of([(b"host", b"x"), (b"cache-control", control)], "") == ask


def test_several_headers_are_one() -> None:
    assert ask_of([(b"cache-control", b"max-age=9"), (b"cache-control", b"no-cache")], "t") == CacheAsk(
        "t", "refresh", 9.0
    )


def test_who_says_nothing_is_usual() -> None:
    assert ask_of([(b"host", b"x")], "") is USUAL_ASK
    assert ask_of([], "alice") == CacheAsk("alice")


def test_tags() -> None:
    assert ask_of([(b"cache-tag", b"b, a,"), (b"cache-tag", b"a")], "").tags == ("a", "b")


def test_a_tag_is_the_text_that_a_query_names() -> None:
    assert ask_of([(b"cache-tag", "prix-é, 価格".encode())], "").tags == ("prix-é", "価格")
    with pytest.raises(RequestError, match="UTF-8"):
        ask_of([(b"cache-tag", "prix-é".encode("latin-1"))], "")


@pytest.mark.parametrize(
    "tags", [",".join(map(str, range(MOST_TAGS + 1))), "x" * (LONGEST_TAG + 1), "a\x07b"], ids=["many", "long", "bell"]
)
def test_tags_are_bounded(tags: str) -> None:
    with pytest.raises(RequestError, match="Cache-Tag takes at most"):
        ask_of([(b"cache-tag", tags.encode())], "")


def test_what_is_told() -> None:
    assert told(MISSED) == ((b"x-cache", b"miss"),)
    assert told(JOINED) == ((b"x-cache", b"coalesced"),)
    assert told(CacheNote("semantic", "id", 7.9, 0.98754)) == (
        (b"x-cache", b"semantic"),
        (b"x-cache-entry", b"id"),
        (b"age", b"7"),
        (b"x-cache-score", b"0.9875"),
    )
