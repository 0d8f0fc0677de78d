"""URLs of an SQS, taken apart, and what packs look like as text."""

from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.brokers.packs import PackError
from forebay.brokers.sqs_queues import dead_name, queue_name
from forebay.brokers.sqs_text import PLAIN, PRESSED, read, written
from forebay.brokers.sqs_url import SqsAddress, parse_url
from forebay.core.errors import SetupError


def test_what_is_left_out_is_as_usual() -> None:
    found = parse_url("sqs://eu-west-1")
    assert (found.region, found.prefix, found.endpoint, found.profile) == ("eu-west-1", "forebay", "", "")
    assert (found.fifo, found.create, found.poll_s) == (False, True, 5)
    assert parse_url("sqs://").region == parse_url("sqs:///team").region == ""


def test_all_that_can_be_said() -> None:
    found = parse_url("sqs://eu-west-1/team_a?endpoint=http://h:1/&profile=jobs&fifo=yes&create=no&poll=20")
    assert found == SqsAddress(
        shown="sqs://eu-west-1/team_a",
        region="eu-west-1",
        prefix="team_a",
        endpoint="http://h:1",
        profile="jobs",
        fifo=True,
        create=False,
        poll_s=20,
    )
    assert found.place == "sqs://eu-west-1/team_a (http://h:1)"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "is no URL of an SQS"),
        ("sqs://h:99/", "is no region"),
        ("sqs://AKIA:s3cret@eu-west-1/", "credentials are found as AWS tools find them"),
        ("sqs://eu-west-1/?endpoint=http://AKIA:s3cret@h", "credentials are found as AWS tools find them"),
        ("sqs://eu-west-1/a/b", "the prefix must have 1 to 40 of"),
        ("sqs://eu-west-1/" + "x" * 41, "the prefix must have 1 to 40 of"),
        ("sqs://eu-west-1/a.b", "the prefix must have 1 to 40 of"),
        ("sqs://eu-west-1/?odd=1", "unknown option 'odd'; there are create, endpoint, fifo, poll, profile"),
        ("sqs://eu-west-1/?poll=21", "poll must be 1 to 20 seconds, got '21'"),
        ("sqs://eu-west-1/?poll=soon", "poll must be 1 to 20 seconds"),
        ("sqs://eu-west-1/?fifo=perhaps", "fifo must be yes or no, got 'perhaps'"),
        ("sqs://eu-west-1/?endpoint=h:1", "endpoint must be http://HOST:PORT"),
        ("sqs://[::1", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_without_what_may_be_secret(url: str, said: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_url(url)
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("fifo", [False, True])
@given(name=st.text(min_size=1, max_size=100), level=st.integers(0, 2))
def test_every_model_has_a_name_that_sqs_takes(fifo: bool, name: str, level: int) -> None:
    address = SqsAddress(shown="", prefix="p" * 40, fifo=fifo)
    made = queue_name(address, (name, level))
    assert len(made) <= 80
    stem = made.removesuffix(".fifo") if fifo else made
    assert stem.isascii()
    assert stem.replace("-", "").replace("_", "").isalnum()
    assert made not in (dead_name(address), queue_name(address, (f"{name}.", level)))


def test_a_name_that_sqs_takes_stays_as_it_is() -> None:
    assert queue_name(parse_url("sqs://eu-west-1/"), ("mlp", 0)) == "forebay-mlp-high"
    assert queue_name(parse_url("sqs://eu-west-1/?fifo=yes"), ("mlp", 2)) == "forebay-mlp-low.fifo"


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_what_is_written_is_read_and_within_its_bound(pack: bytes, most_bytes: int) -> None:
    text = written(pack, most_bytes)
    if text is not None:
        assert len(text) <= most_bytes
        assert text.isascii()
        assert text.isprintable()
        assert read(text) == pack


def test_what_is_too_large_in_one_form_is_written_in_another() -> None:
    noise = random.Random(1).randbytes(3000)
    assert (written(noise, 4004) or "").startswith(PLAIN)
    assert (written(noise, 3900) or "").startswith(PRESSED)
    assert written(noise, 3000) is None
    assert (written(b"x" * 3000, 3000) or "").startswith(PRESSED)


@pytest.mark.parametrize(
    "text", ["", "x", "fb1", "fb1.*", "fb1.YQ", "fb1z.", "fb1z.!", "fb1z.0000", "fb1z." + "é", "fb2.YWJj"]
)
def test_what_nobody_wrote_is_no_pack(text: str) -> None:
    with pytest.raises(PackError):
        read(text)


def test_what_unfolds_to_more_than_anybody_packs_is_no_pack() -> None:
    bomb = PRESSED + base64.b85encode(zlib.compress(bytes(17 << 20))).decode()
    with pytest.raises(PackError):
        read(bomb)
