"""Calling the webhooks of finished jobs, again and again until they answer, from whatever process comes first.

A call carries `{"type": "job.STATUS", "timestamp": …, "data": the job}` and is signed as in Standard Webhooks; its
webhook-id is the job's id, by which a receiver knows one that came before. What is owed is kept by the store.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable

from forebay import __version__
from forebay.api.job_documents import encoded_job, time_of
from forebay.api.webhook_secrets import WebhookSecrets
from forebay.api.webhook_send import NotSent, Place, Reply, place_of, post
from forebay.core.errors import DependencyError
from forebay.jobs.record import UNREADABLE, JobRecord
from forebay.jobs.store import JobReader
from forebay.jobs.webhooks import Delivery, Settled, WebhookQueue
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.logs import fields
from forebay.telemetry.metrics import count

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 4 * 3600.0
MOST_TRIES = 10
"""With four times the wait after each failure, these take about 14 hours."""
TIMEOUT_S = 15.0
"""Of one call, from the look-up of the name to the answer."""
HOLD_S = 60.0
"""After which a call is made again whose process died over it."""
MOST_AT_ONCE = 64
MOST_OF_A_HOST = 16
"""Of those at once, so that one that answers slowly leaves room for others."""
POLL_S = 1.0
LAST_CALLS_S = 2.0
"""How long calls may still take once no more are begun."""

log = logging.getLogger("forebay.api")


class Webhooks:
    """Makes the calls that are due, as long as it runs."""

    def __init__(
        self,
        queue: WebhookQueue,
        reader: JobReader,
        secrets: WebhookSecrets,
        *,
        private: bool,
        base: str = "",
        poll_s: float = POLL_S,
        timeout_s: float = TIMEOUT_S,
        first_retry_s: float = FIRST_RETRY_S,
        tls: ssl.SSLContext | None = None,
        last_calls_s: float = LAST_CALLS_S,
        now_s: Callable[[], float] = time.time,
        metrics: JobMetrics | None = None,
    ) -> None:
        """private: webhooks may go to addresses that are not public. base: what stands before this server's paths.
        now_s: seconds since 1970."""
        self._metrics = metrics or JobMetrics()
        self._queue = queue
        self._reader = reader
        self._secrets = secrets
        self._private = private
        self._base = base
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._first_retry_s = first_retry_s
        self._tls = tls or ssl.create_default_context()
        self._last_calls_s = last_calls_s
        self._now_s = now_s
        self._failing = False
        self._calling: set[asyncio.Task[None]] = set()
        self._of_host: Counter[str] = Counter()
        self._settled: list[Settled] = []

    async def run(self) -> None:
        """Until canceled; then what is being called gets `last_calls_s`. What is broken off after that is due again at
        once, for whoever comes."""
        try:
            while True:
                try:
                    found = await self._round()
                    self._failing = False
                except Exception as error:
                    self._fails(error)
                    found = False
                if not found:
                    await asyncio.sleep(self._poll_s * random.uniform(0.5, 1.0))
        finally:
            await self._end()

    def _fails(self, error: Exception) -> None:
        """One line for each time that the store begins to fail."""
        if not isinstance(error, DependencyError):
            log.error("webhooks: a round failed", exc_info=error, extra=fields(code="internal"))
        elif not self._failing:
            log.warning("webhooks wait for the store: %s", error.message, extra=fields(code=error.code))
        self._failing = True

    async def _end(self) -> None:
        if self._calling:
            await asyncio.wait(self._calling, timeout=self._last_calls_s)
        for call in self._calling:
            call.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)
        try:
            if self._settled:
                await self._queue.settle_webhooks(self._settled)
        except DependencyError as error:
            log.warning("%d webhooks will be called once more: %s", len(self._settled), error.message)

    async def _round(self) -> bool:
        """Settle what has ended and begin what is due; whether there may be more at once."""
        settled, self._settled = self._settled, []
        try:
            if settled:
                await self._queue.settle_webhooks(settled)
        except (DependencyError, asyncio.CancelledError):
            self._settled = settled + self._settled
            raise
        free = MOST_AT_ONCE - len(self._calling)
        if not free:
            return False
        due = await self._queue.due_webhooks(free, HOLD_S)
        if due:
            looks = await self._reader.read([one.id for one in due])
            for one, look in zip(due, looks, strict=True):
                if isinstance(look, JobRecord) and look.spec.webhook:
                    self._begin(one, look)
                elif not isinstance(look, JobRecord) or look.spec.envelope != UNREADABLE:
                    self._settled.append(Settled(one.id))  # its record is gone
        return bool(due) and len(self._calling) < MOST_AT_ONCE

    def _begin(self, one: Delivery, record: JobRecord) -> None:
        try:
            place = place_of(record.spec.webhook)
        except NotSent as error:
            self._give_up(one, "", str(error))
            return
        if self._of_host[place.host] >= MOST_OF_A_HOST:
            self._settled.append(Settled(one.id, random.uniform(1.0, self._timeout_s), counts=False))
            return
        self._of_host[place.host] += 1
        call = asyncio.get_running_loop().create_task(self._call(one, place, record))
        self._calling.add(call)
        call.add_done_callback(self._calling.discard)

    async def _call(self, one: Delivery, place: Place, record: JobRecord) -> None:
        try:
            try:
                reply = await self._post(place, record)
                self._answered(one, place, reply)
            except NotSent as error:
                self._failed(one, place, str(error))
            except asyncio.CancelledError:
                self._settled.append(Settled(one.id, 0.0, counts=False))
                raise
            except Exception as error:
                log.error("a webhook could not be called", exc_info=error, extra=fields(job_id=one.id))
                self._failed(one, place, "internal error")
        finally:
            self._of_host[place.host] -= 1
            if not self._of_host[place.host]:
                del self._of_host[place.host]

    async def _post(self, place: Place, record: JobRecord) -> Reply:
        body = payload(record, self._base)
        now_s = int(self._now_s())
        headers = {
            "content-type": "application/json",
            "user-agent": f"forebay/{__version__}",
            "webhook-id": record.spec.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": self._secrets.sign(record.spec.id, now_s, body),
        }
        return await post(place, headers, body, timeout_s=self._timeout_s, private=self._private, tls=self._tls)

    def _answered(self, one: Delivery, place: Place, reply: Reply) -> None:
        if 200 <= reply.status < 300:
            self._settled.append(Settled(one.id))
            count(self._metrics.webhooks, "delivered")
        elif reply.status == 410:
            self._give_up(one, place.host, "it answered 410: it wants no more of this")
        else:
            self._failed(one, place, f"it answered {reply.status}", reply.retry_after_s)

    def _failed(self, one: Delivery, place: Place, reason: str, at_least_s: float = 0.0) -> None:
        tries = one.tries + 1
        if tries >= MOST_TRIES:
            self._give_up(one, place.host, reason)
            return
        again_s = min(self._first_retry_s * 4.0**one.tries, LONGEST_RETRY_S) * random.uniform(0.8, 1.2)
        again_s = max(again_s, min(at_least_s, LONGEST_RETRY_S))
        self._settled.append(Settled(one.id, again_s))
        count(self._metrics.webhooks, "retried")
        about = fields(job_id=one.id, host=place.host, attempt=tries, reason=reason, retry_after_s=round(again_s, 1))
        log.info("a webhook failed and is called again later", extra=about)

    def _give_up(self, one: Delivery, host: str, reason: str) -> None:
        self._settled.append(Settled(one.id))
        count(self._metrics.webhooks, "failed")
        about = fields(job_id=one.id, host=host, attempt=one.tries + 1, reason=reason)
        log.warning("a webhook is given up: %s", reason, extra=about)


def payload(record: JobRecord, base: str = "") -> bytes:
    """What a webhook is sent about a finished job."""
    about = (record.state.encode(), time_of(record.finished_ms).encode(), encoded_job(record, base))
    return b'{"type":"job.%b","timestamp":"%b","data":%b}' % about
