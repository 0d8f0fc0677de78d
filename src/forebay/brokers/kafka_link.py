"""The way to a Kafka: whether it can be reached, as far as that is known.

librdkafka connects anew by itself, and tells nobody when it succeeds. So whatever makes the brokers seem to be away
has one question asked of them, again and again until it is answered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Literal

from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from forebay.brokers.kafka_errors import FAILURES, ClientLog, failure, kafka_error, setup_failure, unavailable
from forebay.brokers.kafka_sending import Sender, in_loop
from forebay.brokers.kafka_topics import Topics, told
from forebay.brokers.kafka_url import KafkaAddress
from forebay.core.errors import DependencyError, SetupError

log = logging.getLogger("forebay.jobs")

LOOK_S: Final = 2.0
PAUSE_S: Final = 0.1
_FIRST_S: Final = 8.0
_UNSURE_S: Final = 0.5
"""How long a caller waits for the answer to whether the brokers are away."""
_AWAY: Final = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL})
_SILENT: Final = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT})
_REASONS: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._SSL,
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)


class KafkaLink:
    """Clients of one cluster, made with the first call of `reach`."""

    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self.admin: AdminClient
        self.sender: Sender
        self.topics: Topics
        self.cluster = ""
        """Its name and size, once it was reached."""
        self.changed = asyncio.Event()
        """Is set, and another put in its place, when it is reached, or not any more."""
        self._state: Literal["new", "up", "unsure", "away"] = "new"
        self._why = ""
        """Why it is away. In words: an error that is raised again and again would keep every frame that it came by."""
        self._reason: KafkaError | SetupError | None = None
        """The last that was told of a connection."""
        self._suspected = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False

    async def reach(self) -> None:
        """Raises `DependencyError` where the brokers are known to be away: at once, but for the first attempt."""
        if self._keeping is None and not self._closed:
            self._begin()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (_FIRST_S if self._state == "new" else _UNSURE_S)
        while self._state != "up":
            if self._closed:
                raise DependencyError("this connection to the broker was closed", code="broker_unavailable")
            if self._state == "away":
                raise self._away()
            try:
                async with asyncio.timeout_at(until_s):
                    await self.changed.wait()
            except TimeoutError:
                raise unavailable("no answer in time", self.address) from None

    def is_away(self) -> DependencyError | None:
        """Why the brokers cannot be used, where that is known."""
        return self._away() if self._state == "away" else None

    def setup_failure(self) -> SetupError | None:
        """What an operator has to mend before it can be reached, where that is known."""
        return None if self._reason is None else setup_failure(self._reason, self.address)

    def blame(self, error: KafkaError) -> None:
        """Something went wrong with a connection. May be called on any thread."""
        in_loop(self._loop, self._blamed, error)

    async def close(self) -> None:
        """End it."""
        self._closed = True
        self._wake()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self.sender.close()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            settings: dict[str, Any] = self.address.client() | {"error_cb": self.blame}
            self.admin = AdminClient(settings, logger=ClientLog())
            self.sender = Sender(self.address, self.blame, lambda: self.admin.poll(0))
        except (*FAILURES, SetupError) as error:
            self._reason = error if isinstance(error, SetupError) else kafka_error(error)
            raise failure(error, self.address) from None
        self.topics = Topics(self.admin, self.address)
        self._keeping = asyncio.create_task(self._keep(), name="kafka: connection")

    async def _keep(self) -> None:
        said = ""
        while True:
            self._suspected.clear()
            try:
                found = await told(self.admin.describe_cluster(request_timeout=LOOK_S))
                if self._state in ("unsure", "away"):
                    self.topics.forget_all()
                    self.sender.renew()
            except Exception as error:  # whatever it is: nobody else would ask again
                self._set_away(self._told_reason() or failure(error, self.address))
                if self._why != said:
                    said = self._why
                    log.warning("%s; it is tried again", said)
                await asyncio.sleep(PAUSE_S)
                continue
            self.cluster = f"Kafka, cluster {found.cluster_id}, brokers: {len(found.nodes)}"
            if said:
                log.info("Kafka at %s can be reached again", self.address.shown)
            said, self._state, self._why, self._reason = "", "up", "", None
            self._wake()
            await self._suspected.wait()

    def _blamed(self, error: KafkaError) -> None:
        code = error.code()
        if code in _REASONS:
            self._reason = error
        if code not in _AWAY and code not in _SILENT:
            return  # one of several brokers, perhaps
        if self._state == "up":
            self._state = "unsure"
            self._suspected.set()
        elif code in _AWAY and self._state != "away":
            self._set_away(self._told_reason() or failure(error, self.address))

    def _told_reason(self) -> DependencyError | None:
        return None if self._reason is None else failure(self._reason, self.address)

    def _set_away(self, error: DependencyError) -> None:
        self._state, self._why = "away", error.message
        self._wake()

    def _away(self) -> DependencyError:
        return DependencyError(self._why, code="broker_unavailable")

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
