"""What Forebay has in a Kafka: a topic and a group for each model and level, and a topic for what cannot be read.

One group for all levels would not do: a cooperative assignment only sees to it that all have as many partitions, so
one worker could get all of one level.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from forebay.brokers.kafka_errors import UNKNOWN_TOPICS, kafka_error
from forebay.brokers.kafka_url import KafkaAddress

log = logging.getLogger("forebay.jobs")

LEVELS: Final = ("high", "normal", "low")
CALL_TIMEOUT_S: Final = 6.0
_SEEN_S: Final = 60.0
"""How long an end that a confirmation told is believed where the broker tells of one before it."""
_KNOWN_S = 60.0
"""An operator may give a topic more partitions."""
_MADE_S = 5.0
_LOOK_S = 0.05
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]{1,150}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
Place = tuple[str, int]
"""A topic and the number of a partition."""
T = TypeVar("T")


def safe_name(queue: str) -> str:
    """A model's name as topics may be called. Without dots, since Kafka takes a_b and a.b for one."""
    if _SAFE.fullmatch(queue):
        return queue
    digest = hashlib.sha256(queue.encode()).hexdigest()[:16]
    return f"{_UNSAFE.sub('-', queue)[:100]}-{digest}"


def topic_name(address: KafkaAddress, queue: str, level: int) -> str:
    """Where messages of a model's level are."""
    return f"{address.prefix}.{safe_name(queue)}.{LEVELS[level]}"


def group_name(topic: str) -> str:
    """The group of those who work on a topic."""
    return topic


def dead_name(address: KafkaAddress) -> str:
    """The topic of what cannot be read."""
    return f"{address.prefix}.dead"


class Topics:
    """Makes sure of topics, and tells how far they and their readers are. Its calls raise `KafkaException` and
    `TimeoutError`."""

    def __init__(self, admin: AdminClient, address: KafkaAddress) -> None:
        self._admin, self._address = admin, address
        self._known: dict[str, tuple[int, float]] = {}
        self._seen: dict[Place, tuple[int, float]] = {}
        self._small = set[str]()
        """Those of which it was said that not every job fits."""

    def is_small_for(self, name: str, nbytes: int) -> None:
        """Say it, of each topic once."""
        if name not in self._small:
            self._small.add(name)
            log.warning(
                "topic %s refuses %d bytes as too large: jobs that do not fit travel by their ids alone; raise its "
                "max.message.bytes",
                name,
                nbytes,
            )

    async def need(self, *names: str) -> list[int]:
        """How many partitions topics have that are there."""
        now_s = time.monotonic()
        asked = [name for name in dict.fromkeys(names) if self._known.get(name, (0, 0.0))[1] <= now_s]
        if asked:
            self._known |= {name: (count, now_s + _KNOWN_S) for name, count in (await self._made(asked)).items()}
        return [self._known[name][0] for name in names]

    def forget(self, name: str) -> None:
        """It may not be there any more."""
        self._known.pop(name, None)

    def forget_all(self) -> None:
        """Brokers were away, and may be others now: what is not there is made before it is used, and not once a message
        for it has waited in vain."""
        self._known.clear()

    def confirmed(self, topic: str, partition: int, offset: int) -> None:
        """A message is there."""
        end, _ = self._seen.get((topic, partition), (0, 0.0))
        self._seen[topic, partition] = max(end, offset + 1), time.monotonic() + _SEEN_S

    def seen(self, place: Place) -> int:
        """Where a partition ends at least, by what was confirmed lately."""
        end, until_s = self._seen.get(place, (0, 0.0))
        return end if time.monotonic() < until_s else 0

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """Where the next messages of partitions will stand."""
        told = await self._offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        # What was confirmed here counts although the broker says less: no message may look as if it were lost.
        return {place: max(end, self.seen(place)) for place, end in told.items()}

    async def begins(self, group: str, places: Sequence[Place], ends: Mapping[Place, int]) -> dict[Place, int]:
        """Where a group will go on in partitions: what is before that is done with, or was dropped for its age."""
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*place) for place in places])
        (answer,) = self._admin.list_consumer_group_offsets([asked], request_timeout=CALL_TIMEOUT_S).values()
        found = {(one.topic, one.partition): one.offset for one in (await told(answer)).topic_partitions}
        behind = [place for place in places if found.get(place, -1) < ends[place]]
        first = await self._offsets(behind, OffsetSpec.earliest()) if behind else {}  # type: ignore[no-untyped-call]
        return {place: max(found.get(place, -1), first.get(place, 0), 0) for place in places}

    async def _offsets(self, places: Sequence[Place], spec: OffsetSpec) -> dict[Place, int]:
        asked = {TopicPartition(*place): spec for place in places}
        answers = self._admin.list_offsets(asked, request_timeout=CALL_TIMEOUT_S)
        found = {}
        for at, answer in answers.items():
            found[at.topic, at.partition] = (await told(answer)).offset
        return found

    async def _made(self, names: Sequence[str]) -> dict[str, int]:
        """Topics with their partitions; those that are not there are created, where that is wanted."""
        found = await self._look(names)
        missing = [name for name in names if not found[name]]
        if not missing:
            return found
        if not self._address.create:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"no topic {missing[0]}"))
        await self._create(missing)
        until_s = time.monotonic() + _MADE_S
        while missing:
            found |= await self._look(missing)
            missing = [name for name in missing if not found[name]]
            if missing and time.monotonic() > until_s:
                raise TimeoutError
            await asyncio.sleep(_LOOK_S if missing else 0)
        return found

    async def _create(self, names: Iterable[str]) -> None:
        address = self._address
        new = [
            NewTopic(name, 1 if name == dead_name(address) else address.partitions, address.replication)
            for name in names
        ]
        for answer in self._admin.create_topics(new, request_timeout=CALL_TIMEOUT_S).values():
            try:
                await told(answer)
            except KafkaException as error:
                code = kafka_error(error)
                if code is None or code.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    async def _look(self, names: Sequence[str]) -> dict[str, int]:
        """Partitions of topics, 0 of one that is not there."""
        answers = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=CALL_TIMEOUT_S)
        found = dict.fromkeys(names, 0)
        for name, answer in answers.items():
            try:
                found[name] = len((await told(answer)).partitions)
            except KafkaException as error:
                code = kafka_error(error)
                if code is None or code.code() not in UNKNOWN_TOPICS:
                    raise
        return found


async def told(answer: Any) -> Any:
    """What a future of another thread brings. Raises what it does, and `TimeoutError`."""
    async with asyncio.timeout(CALL_TIMEOUT_S + 1.0):
        return await asyncio.wrap_future(answer)
