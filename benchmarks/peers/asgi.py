"""Bare raw-ASGI applications for uvicorn: the limit of any Python server built on ASGI.

`echo` sends the body back; `read` reads the whole body and answers two bytes. No routing, no framework, no model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    if not message.get("more_body"):
        return body
    chunks = [body]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message["body"])
    return b"".join(chunks)


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """The body, back."""
    await _answer(send, await _body(receive))


async def read(scope: Message, receive: Receive, send: Send) -> None:
    """The body, read whole and dropped."""
    await _body(receive)
    await _answer(send, b"{}")
