"""The port that a server says it serves at takes connections by then, and is its own."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from forebay.api.server import bind, listen
from forebay.core.errors import SetupError


def test_whoever_calls_before_anyone_accepts_waits_and_is_not_refused() -> None:
    with closing(bind("127.0.0.1", 0)) as listener:
        address = listen(listener)
        with closing(socket.create_connection(address, 5)) as caller:
            assert caller.getpeername() == address


def test_of_two_that_bind_one_port_at_once_the_later_is_told() -> None:
    with closing(bind("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with closing(bind("127.0.0.1", port)) as second:  # neither listens yet, and the system lets both
            listen(first)
            with pytest.raises(SetupError, match=f"127.0.0.1:{port}: Address already in use; choose another --port"):
                listen(second)
