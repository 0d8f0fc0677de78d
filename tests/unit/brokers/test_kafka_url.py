"""URLs of a Kafka, taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.brokers.kafka_topics import safe_name
from forebay.brokers.kafka_url import parse_url
from forebay.core.errors import SetupError


def test_what_is_left_out_is_as_usual() -> None:
    found = parse_url("kafka://host")
    assert (found.hosts, found.user, found.prefix, found.create) == (("host:9092",), "", "forebay", True)
    told = found.client()
    assert (told["bootstrap.servers"], told["security.protocol"]) == ("host:9092", "PLAINTEXT")
    assert not any(name.startswith(("sasl", "ssl")) for name in told)
    assert parse_url("kafkas://host").hosts == ("host:9093",)


def test_all_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    found = parse_url(
        "kafkas://me:p%40ss@a:1,[::1]:2/team.jobs?partitions=4&replication=3&create=no&mechanism=SCRAM-SHA-512"
        f"&session_timeout=30&fetch_wait=20&verify=no&cafile={tmp_path}/ca.pem"
    )
    assert (found.hosts, found.prefix) == (("a:1", "[::1]:2"), "team.jobs")
    assert (found.partitions, found.replication, found.create) == (4, 3, False)
    assert (found.session_timeout_s, found.fetch_wait_ms) == (30, 20)
    assert found.shown == "kafkas://a:1,[::1]:2/team.jobs"
    told = found.client()
    assert told["security.protocol"] == "SASL_SSL"
    assert [told[f"sasl.{name}"] for name in ("mechanism", "username", "password")] == ["SCRAM-SHA-512", "me", "p@ss"]
    assert told["ssl.ca.location"] == f"{tmp_path}/ca.pem"
    assert told["enable.ssl.certificate.verification"] is False


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://", "names no host"),
        ("kafka://u:s3cret@", "names no host"),
        ("http://u:s3cret@h", "is no URL of a Kafka"),
        ("kafka://u:s3cret@h/a/b", "begins the names of topics"),
        ("kafka://u:s3cret@h/a%20b", "begins the names of topics"),
        ("kafka://u:s3cret@h/?odd=1", "unknown option 'odd'; there are cafile,"),
        ("kafka://u:s3cret@h/?partitions=many", "partitions must be a number above 0, got 'many'"),
        ("kafka://u:s3cret@h/?replication=0", "replication must be a number above 0"),
        ("kafka://u:s3cret@h/?create=perhaps", "create must be yes or no, got 'perhaps'"),
        ("kafka://u:s3cret@h/?mechanism=GSSAPI", "mechanism must be PLAIN or SCRAM-SHA-256 or SCRAM-SHA-512"),
        ("kafka://u:s3cret@h/?cafile=/nope&verify=no", "cafile, verify: only with TLS; write kafkas://"),
        ("kafkas://u:s3cret@h/?keyfile=/nope", "name that too: certfile=PATH"),
        ("kafka://u:s3cret@h:port", "is no HOST:PORT"),
        ("kafka://u:s3cret@a,,b", "'' is no HOST:PORT"),
        ("kafka://u:s3cret@[::1", "cannot be read"),
        ("kafka://u:s3cret/s3cret@h", "percent-encode the password"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, said: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_url(url)
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message


def test_names_that_a_topic_may_not_have_are_changed_and_stay_apart() -> None:
    names = ["mlp", "my_model-2", "a.b", "a_b", "a-b", "ünï", "", "x" * 300, "x" * 299 + "y"]
    safe = [safe_name(name) for name in names]
    assert safe[:2] == names[:2]
    assert len(set(safe)) == len(names)
    assert all(len(name) <= 150 and set(name) <= set(_ALLOWED) for name in safe)


_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
