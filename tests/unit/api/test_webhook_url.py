"""Where a webhook may point."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.api.webhook_url import check_webhook, is_public, private_allowed
from forebay.core.errors import RequestError
from forebay.core.settings import JobSettings


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com/hook?token=a%20b",
        "HTTPS://example.com:8443/a/b#c",
        "https://8.8.8.8/hook",
        "https://[2606:4700::1111]:443/hook",
        "https://a-b.example.com./x",
    ],
)
def test_public_urls_are_taken_as_they_are(url: str) -> None:
    assert check_webhook(url, private=False) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "must be a URL, got null"),
        (7, "must be a URL, got 7"),
        ("", "http or https"),
        ("example.com/hook", "http or https"),
        ("//example.com/hook", "http or https"),
        ("ftp://example.com", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("javascript:alert(1)", "http or https"),
        ("http://", "no host"),
        ("http://:80/", "no host"),
        ("http://./", "no host"),
        ("http://example.com:0/", "no host or port"),
        ("http://example.com:99999/", "not a URL"),
        ("http://example.com:x/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https://user@example.com/", "user name or password"),
        ("https://example.com/a b", "character"),
        ("https://example.com/\r\nx: y", "character"),
        ("https://example.com/\x00", "character"),
        ("https://ex\u00e4mple.com/", "character"),
        ("https://example.com\\@evil.com/", "character"),
        ("https://example.com/" + "a" * 2048, "at most 2048"),
    ],
)
def test_what_is_no_url_to_call_is_refused(url: Any, reason: str) -> None:
    for private in (False, True):
        with pytest.raises(RequestError, match=reason):
            check_webhook(url, private)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "printer.local",
        "metadata.google.internal",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::a00:1]",
        "[fec0::1]",
        "[2002:7f00:1::]",
    ],
)
def test_addresses_that_only_the_server_reaches_need_the_setting(host: str) -> None:
    url = f"http://{host}:9000/hook"
    with pytest.raises(RequestError, match="private_webhooks"):
        check_webhook(url, private=False)
    assert check_webhook(url, private=True) == url


def test_public_addresses() -> None:
    assert is_public("8.8.8.8")
    assert is_public("64:ff9b::808:808")
    assert not is_public("64:ff9b::a00:1")
    assert not is_public("fe80::1%eth0")
    with pytest.raises(ValueError):
        is_public("example.com")


def test_who_alone_can_call_may_have_webhooks_to_this_machine() -> None:
    assert private_allowed(JobSettings(), "127.0.0.1")
    assert not private_allowed(JobSettings(), "0.0.0.0")
    assert private_allowed(JobSettings(private_webhooks="on"), "0.0.0.0")
    assert not private_allowed(JobSettings(private_webhooks="off"), "127.0.0.1")
