"""What a browser sends for a page of another site neither loads models nor follows jobs."""

from __future__ import annotations

from typing import Any, cast

import pytest
from starlette.requests import Request as HttpRequest

from forebay.api.auth import Gate, Keys, Quota, from_here
from forebay.api.repository_routes import ModelControl
from forebay.core.errors import RequestError

REBOUND = {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec-fetch-site": "same-origin"}
"""A name of the page's own that was made to point to this machine."""


def request(headers: dict[str, str]) -> HttpRequest:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HttpRequest({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": pairs})


@pytest.mark.parametrize("requests_per_s", [None, 100.0])
def test_a_quota_without_keys_is_no_key(requests_per_s: float | None) -> None:
    control = ModelControl(cast(Any, None))
    gate = Gate(Keys({}), Quota(requests_per_s, lambda: 0.0))
    control.check(request({"host": "127.0.0.1:8000"}), gate)
    with pytest.raises(RequestError) as refused:
        control.check(request(REBOUND), gate)
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost", "origin": "http://["},
        {"host": "localhost", "origin": "http://]"},
        {"host": "[", "origin": "http://["},
    ],
)
def test_what_is_no_url_is_from_elsewhere(headers: dict[str, str], keys: bool) -> None:
    assert not from_here(headers, keys=keys)


def test_a_host_that_is_no_address_is_from_elsewhere() -> None:
    assert not from_here({"host": "[", "sec-fetch-site": "none"}, keys=False)
