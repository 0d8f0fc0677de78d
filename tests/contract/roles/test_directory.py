"""The contract of `Directory`, and what stands of what was announced."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.roles.conftest import Place

from forebay.jobs.directory import Announced, Known, ServedModel, standing
from forebay.models.signature import Signature, TensorSpec


def served(name: str = "mlp", version: str = "1", width: int = 4, **more: Any) -> ServedModel:
    signature = Signature((TensorSpec("x", "FP32", (width,)),), (TensorSpec("y", "FP32", (3,)),))
    return ServedModel(name=name, version=version, signature=signature, **more)


FULL = served(
    digest="d1",
    platform="onnxruntime_onnx",
    labels=("cat", "größer"),
    label_file="labels.txt",
    facts={"batching": "up to 8 rows"},
    max_batch_rows=8,
    streams=True,
    default_timeout_s=2.5,
    instances=3,
    max_queue_delay_ms=0.5,
    tuning={"state": "settled", "chosen": "2x1", "rows_per_s": {"2x1": 10.0}, "reason": ""},
)


async def test_what_a_worker_announces_is_seen_elsewhere_as_it_is(place: Place) -> None:
    await place.directory.announce("w1", [FULL, served(version="2"), served("other")])
    known = await place.other_directory.look()
    assert known.workers["w1"]["mlp"].versions == (FULL, served(version="2"))
    assert known.workers["w1"]["other"].versions == (served("other"),)
    assert known.last == known.workers["w1"]


async def test_a_worker_that_falls_silent_is_gone_and_its_models_stay_known(place: Place) -> None:
    await place.directory.announce("w1", [served()])
    await place.directory.announce("w2", [served("other")])
    await place.silence("w1")
    known = await place.other_directory.look()
    assert list(known.workers) == ["w2"]
    assert set(known.last) == {"mlp", "other"}
    assert not await place.directory.renew("w1")
    assert await place.directory.renew("w2")


async def test_a_worker_that_was_given_up_can_come_back(place: Place) -> None:
    await place.directory.announce("w1", [served()])
    await place.silence("w1")
    await place.directory.announce("w1", [served()])
    assert await place.directory.renew("w1")
    assert "mlp" in (await place.directory.look()).workers["w1"]


async def test_a_worker_that_goes_is_gone_at_once(place: Place) -> None:
    await place.directory.announce("w1", [served()])
    await place.directory.withdraw("w1")
    known = await place.other_directory.look()
    assert known.workers == {}
    assert set(known.last) == {"mlp"}


async def test_a_worker_without_models_is_there(place: Place) -> None:
    await place.directory.announce("w1", [])
    assert (await place.other_directory.look()).workers == {"w1": {}}
    assert await place.directory.renew("w1")


async def test_a_model_that_is_given_up_is_forgotten_unless_another_worker_has_it(place: Place) -> None:
    await place.directory.announce("w1", [served(), served("other")])
    await place.directory.announce("w2", [served("other")])
    await place.directory.announce("w1", [], ["mlp", "other"])
    known = await place.other_directory.look()
    assert set(known.last) == {"other"}
    assert known.workers["w1"] == {}


async def test_the_order_tells_who_announced_other_files_last_and_not_who_measured_last(place: Place) -> None:
    await place.directory.announce("w1", [served(digest="a")])
    await place.directory.announce("w2", [served(digest="b")])
    await place.directory.announce("w1", [served(digest="a", instances=9)])
    known = await place.other_directory.look()
    first, second = known.workers["w1"]["mlp"], known.workers["w2"]["mlp"]
    assert first.versions[0].instances == 9
    assert first.order < second.order
    await place.directory.announce("w1", [served(digest="c")])
    assert (await place.other_directory.look()).workers["w1"]["mlp"].order > second.order


async def test_news_come_at_once_and_first_when_none_can_be_missed(place: Place) -> None:
    news = place.other_directory.news()
    async with asyncio.timeout(10):
        await anext(news)
        await place.directory.announce("w1", [served()])
        await anext(news)
        assert "w1" in (await place.other_directory.look()).workers
        await place.directory.withdraw("w1")
        await anext(news)


def test_a_version_that_some_worker_has_hides_others_that_were_announced_before() -> None:
    known = Known({"w1": {"mlp": Announced(2, (served(version="1"),))}}, {"mlp": Announced(1, (served(version="2"),))})
    assert set(standing(known)) == {("mlp", "1")}


def test_a_model_that_no_worker_has_stands_as_it_was_announced_last() -> None:
    found = standing(Known({}, {"mlp": Announced(4, (served(version="1"), served(version="2")))}))
    assert {place: one.workers for place, one in found.items()} == {
        ("mlp", "1"): frozenset(),
        ("mlp", "2"): frozenset(),
    }


def test_of_workers_that_differ_the_newest_counts_and_only_those_of_its_form_take_requests() -> None:
    workers = {
        "w1": {"mlp": Announced(1, (served(width=4, digest="a"),))},
        "w2": {"mlp": Announced(3, (served(width=5, digest="b"),))},
        "w3": {"mlp": Announced(2, (served(width=5, digest="c"),))},
    }
    one = standing(Known(workers, {}))["mlp", "1"]
    assert one.model.digest == "b"
    assert one.workers == {"w2", "w3"}
    assert one.differs == ("signature", "digest")


def test_the_form_is_that_of_model_version_and_signature() -> None:
    assert served().form == served(digest="other", instances=7).form
    assert len({one.form for one in (served(), served("m"), served(version="2"), served(width=5))}) == 4
