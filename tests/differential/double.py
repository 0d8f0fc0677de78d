"""An engine that answers in an order of its own, some turns of the event loop later, and tells what it still holds."""

from __future__ import annotations

import asyncio
import random

from tests.unit.api.conftest import FunctionEngine

from forebay.core.request import Request


def nobody(_: Request) -> None:
    """Stands where `on_done` was, as in the real engine: each request is answered at most once."""


class ShuffledEngine(FunctionEngine):
    """Answers a random share of what waits in each turn of the event loop; `hold` keeps it all until `release`."""

    def __init__(self, base: FunctionEngine, order: random.Random) -> None:
        super().__init__(base.name, base.signature, base.function)
        self.order = order
        self.waiting: list[Request] = []
        self.holding = False
        self.runs = 0
        self._due = False

    def submit(self, request: Request) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.waiting.append(request)
        self.runs += 1
        self._soon()

    def _soon(self) -> None:
        if self.waiting and not self.holding and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self.holding:
            return
        chosen = self.order.sample(self.waiting, self.order.randint(0, len(self.waiting)))
        for request in chosen:
            if request in self.waiting:  # answering another one may have cancelled it
                self.waiting.remove(request)
                on_done, request.on_done = request.on_done, nobody
                if self.fail_with is not None:
                    request.error = self.fail_with
                else:
                    self.run(request)
                on_done(request)
        self._soon()

    def release(self) -> None:
        """Answer what was held, and whatever comes from now on."""
        self.holding = False
        self._soon()

    def cancel(self, request: Request) -> None:
        request.on_done = nobody
        if request in self.waiting:
            self.waiting.remove(request)
