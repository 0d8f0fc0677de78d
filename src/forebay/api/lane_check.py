"""Whether the uvicorn that is installed has what the express lane uses of it."""

from __future__ import annotations

import inspect

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_NEEDED = """on_message_begin on_headers_complete on_body on_message_complete on_response_complete data_received
shutdown connection_made connection_lost pause_writing resume_writing _start_asgi_task _unset_keepalive_if_required"""
_CYCLE = """scope transport flow logger access_logger access_log default_headers message_event expect_100_continue
keep_alive on_response""".replace("\n", " ")


def usable() -> str:
    """Why the lane cannot run on the uvicorn that is installed; empty when it can."""
    missing = [name for name in _NEEDED.split() if not hasattr(HttpToolsProtocol, name)]
    if missing:
        return f"uvicorn's HTTP protocol has no {', '.join(missing)}"
    found = " ".join(inspect.signature(RequestResponseCycle).parameters)
    return "" if found == _CYCLE else f"uvicorn's request cycle takes {found}"
