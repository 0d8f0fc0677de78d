"""Ids of jobs."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest

from forebay.core.errors import RequestError
from forebay.jobs.ids import JobIds, is_id, made_ms, parse_id, shard_bits_of, shard_of, shard_of_key

NOW_MS = 1_700_000_000_123


def test_an_id_is_a_uuid_of_version_7_and_of_its_time() -> None:
    id = JobIds(lambda: NOW_MS).new()
    parsed = uuid.UUID(id)
    assert (str(parsed), parsed.version, parsed.variant) == (id, 7, uuid.RFC_4122)
    assert parsed.int >> 80 == made_ms(id) == NOW_MS


def test_the_example_of_the_standard_is_an_id() -> None:
    assert made_ms(parse_id("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")) == 0x017F22E279B0


def test_ids_ascend_within_one_millisecond_and_when_the_clock_goes_back() -> None:
    now = [NOW_MS]
    ids = JobIds(lambda: now[0])
    made = [ids.new() for _ in range(10_000)]
    now[0] -= 3_600_000
    made += [ids.new() for _ in range(10_000)]
    now[0] += 3_600_000 + 5
    made += [ids.new() for _ in range(10)]
    assert made == sorted(set(made))
    assert all(is_id(id) for id in made)
    assert max(map(made_ms, made)) <= NOW_MS + 10


def test_a_full_counter_runs_the_time_ahead() -> None:
    ids = JobIds(lambda: NOW_MS, lambda count: b"\xff" * count)
    made = [ids.new() for _ in range(0x801 + 1)]
    assert made[-2][15:18] == "fff"
    assert (made_ms(made[-1]), made[-1][15:18]) == (NOW_MS + 1, "000")
    assert made == sorted(set(made))


def test_ids_of_two_makers_differ() -> None:
    one, two = JobIds(lambda: NOW_MS), JobIds(lambda: NOW_MS)
    assert len({maker.new() for maker in (one, two) for _ in range(1000)}) == 2000


@pytest.mark.parametrize("shards", [1, 2, 3, 16, 1024])
def test_ids_spread_evenly_over_the_shards(shards: int) -> None:
    ids = JobIds()
    counts = Counter(shard_of(ids.new(), shards) for _ in range(200 * shards))
    assert sorted(counts) == list(range(shards))
    assert max(counts.values()) < 400


@pytest.mark.parametrize("shards", [1, 3, 16])
def test_a_key_lives_in_the_shard_of_its_jobs(shards: int) -> None:
    ids = JobIds()
    for number in range(100):
        bits = shard_bits_of("anna", f"key {number}")
        made = {ids.new(bits) for _ in range(3)}
        assert {shard_of(id, shards) for id in made} == {shard_of_key("anna", f"key {number}", shards)}
        assert len(made) == 3


def test_keys_of_different_tenants_and_unusual_keys_have_shards_of_their_own() -> None:
    assert shard_bits_of("a", "bc") != shard_bits_of("ab", "c")
    assert 0 <= shard_bits_of("ünï", "\udcff\x00") < 65536


def test_an_id_is_read_in_upper_case_too() -> None:
    id = JobIds().new()
    assert parse_id(id.upper()) == id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "01890a5dac96774bbcceb302099a8057",
        "01890a5d-ac96-474b-bcce-b302099a8057",
        "01890a5d-ac96-774b-ccce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a805",
        "01890a5d-ac96-774b-bcce-b302099a8057\n",
        "01890a5d-ac96-774b-bcce-b302099a80５7",
        "../../etc/passwd",
    ],
)
def test_what_cannot_be_an_id_is_no_job(text: str) -> None:
    with pytest.raises(RequestError, match="there is no job") as caught:
        parse_id(text)
    assert caught.value.code == "job_not_found"
    assert repr(text) in caught.value.message


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(RequestError) as caught:
        parse_id("x" * 100_000)
    assert len(caught.value.message) < 300
