"""What is told of a Kafka that cannot be reached."""

from __future__ import annotations

import traceback

import pytest

from forebay.brokers.kafka_link import KafkaLink
from forebay.brokers.kafka_url import parse_url
from forebay.core.errors import DependencyError


async def test_an_error_that_is_told_again_and_again_keeps_no_frames_of_earlier_times() -> None:
    link = KafkaLink(parse_url("kafka://127.0.0.1:1"))
    frames: list[int] = []
    for _ in range(20):
        with pytest.raises(DependencyError) as caught:
            await link.reach()
        assert caught.value.code == "broker_unavailable"
        frames.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert frames[-1] <= frames[0]
    await link.close()
