"""A way to an SQS that can be cut, that can lose an answer, and that refuses what it is told to refuse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import ClientSession, web

from forebay.brokers.sqs_url import parse_url

FAILURES = ("InternalFailure", "ServiceUnavailable")
"""Codes of what is SQS's own fault."""


class Way:
    """Passes requests on. `endpoint` is where clients connect."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.endpoint = ""
        self.seen: list[str] = []
        """Names of the calls that came."""
        self.refusals: dict[str, list[str]] = {}
        """With which codes calls are refused in place of the server, by their names; each once."""
        self.lost: list[str] = []
        """Names of calls that are carried out, but whose answer does not arrive; each once."""
        self.failing: dict[str, list[dict[str, Any]]] = {}
        """Of calls with several entries, how their first is answered to have failed, without being carried out."""
        self._client: ClientSession

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        name, body = request.headers.get("X-Amz-Target", "").rpartition(".")[2], await request.read()
        self.seen.append(name)
        if self.refusals.get(name):
            code = self.refusals[name].pop(0)
            status = 500 if code in FAILURES else 400
            return web.json_response({"__type": f"com.amazonaws.sqs#{code}", "message": "so it is"}, status=status)
        failed = self.failing[name].pop(0) if self.failing.get(name) else None
        said = json.loads(body)
        if failed is not None:
            failed = {"Id": said["Entries"].pop(0)["Id"], **failed}
            body = json.dumps(said).encode()
        headers = {key: value for key, value in request.headers.items() if key.lower() != "content-length"}
        if failed is not None and not said["Entries"]:
            return web.json_response({"Failed": [failed]})
        async with self._client.post(f"{self._target}{request.path}", data=body, headers=headers) as answer:
            told = await answer.read()
            if name in self.lost:
                self.lost.remove(name)
                assert request.transport is not None
                request.transport.abort()
            if failed is not None:
                told = json.dumps({**json.loads(told), "Failed": [failed]}).encode()
            return web.Response(status=answer.status, body=told, headers={"Content-Type": "application/x-amz-json-1.0"})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Way]:
        """While it listens."""
        app = web.Application(client_max_size=4 << 20)
        app.router.add_post("/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None)
        async with ClientSession() as self._client:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.endpoint = f"http://{host}:{port}"
            try:
                yield self
            finally:
                await runner.cleanup()


def through(way: Way, url: str) -> str:
    """The URL of the same queues, by that way."""
    address = parse_url(url)
    return f"sqs://{address.region}/{address.prefix}?poll=1&endpoint={way.endpoint}"
