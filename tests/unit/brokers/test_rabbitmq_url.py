"""URLs of a RabbitMQ, taken apart."""

from __future__ import annotations

import ssl

import pytest

from forebay.brokers.rabbitmq_url import parse_url
from forebay.core.errors import SetupError


def test_what_is_left_out_is_as_usual() -> None:
    found = parse_url("amqp://host")
    assert (found.hosts, found.user, found.password, found.vhost) == ((("host", 5672),), "guest", "guest", "/")
    assert not found.tls
    assert found.ssl_context() is None
    assert parse_url("amqps://host").hosts == (("host", 5671),)


@pytest.mark.parametrize(
    ("url", "vhost"), [("amqp://h/", "/"), ("amqp://h/%2F", "/"), ("amqp://h/jobs", "jobs"), ("amqp://h/a%2Fb", "a/b")]
)
def test_vhosts(url: str, vhost: str) -> None:
    assert parse_url(url).vhost == vhost


def test_all_that_can_be_said() -> None:
    found = parse_url(
        "amqps://me:p%40ss@a:1,b:2/v?prefix=team&heartbeat=20&max_length=10&max_length_bytes=2000&verify=no"
    )
    assert found.hosts == (("a", 1), ("b", 2))
    assert (found.user, found.password, found.prefix, found.heartbeat_s) == ("me", "p@ss", "team", 20)
    assert (found.max_length, found.max_length_bytes) == (10, 2000)
    context = found.ssl_context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_NONE
    assert found.shown == "amqps://a:1,b:2/v"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://", "names no host"),
        ("amqp://u:s3cret@", "names no host"),
        ("http://u:s3cret@h", "is no URL of a RabbitMQ"),
        ("amqp://u:s3cret@h/a/b", "is written %2F"),
        ("amqp://u:s3cret@h/?odd=1", "unknown option 'odd'; there are cafile,"),
        ("amqp://u:s3cret@h/?heartbeat=soon", "heartbeat must be a number above 0, got 'soon'"),
        ("amqp://u:s3cret@h/?max_length=0", "max_length must be a number above 0"),
        ("amqp://u:s3cret@h/?prefix=", "prefix must have 1 to 100 bytes"),
        ("amqps://u:s3cret@h/?verify=perhaps", "verify must be yes or no"),
        ("amqp://u:s3cret@h/?cafile=/nope", "cafile: only with TLS; write amqps://"),
        ("amqp://u:s3cret@h/?verify=no&certfile=/nope", "verify, certfile: only with TLS"),
        ("amqps://u:s3cret@h/?keyfile=/nope", "name that too: certfile=PATH"),
        ("amqp://u:s3cret@h:port", "is no HOST:PORT"),
        ("amqp://u:s3cret@a,,b", "'' is no HOST:PORT"),
        ("amqp://u:s3cret@[::1", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, said: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_url(url)
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("sign", "/?#@[]:&=%")
@pytest.mark.parametrize("more", ["", "@"])
@pytest.mark.parametrize("end", ["h:5672/v", "h", "h/v?heartbeat=6", "h/a/b", "h/?odd=1", ":1"])
def test_no_part_of_a_password_is_shown_however_it_is_written(sign: str, more: str, end: str) -> None:
    try:
        shown = parse_url(f"amqp://u:front{sign}mid{more}heartbeat=rear@{end}").shown
    except SetupError as error:
        shown = error.message
    assert not [part for part in ("front", "mid", "rear") if part in shown]


@pytest.mark.parametrize("sign", "/?#")
def test_a_password_that_is_not_percent_encoded_is_said(sign: str) -> None:
    with pytest.raises(SetupError, match=r"'amqp://u:\*\*\*@h/v' cannot be read: percent-encode the password"):
        parse_url(f"amqp://u:s3{sign}cret@h/v")


def test_certificates_that_are_not_there_are_said() -> None:
    with pytest.raises(SetupError, match="its certificates cannot be used"):
        parse_url("amqps://h/?cafile=/none.pem").ssl_context()
