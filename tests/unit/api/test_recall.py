"""Whole answers to bodies that came before: given only for what they were computed with."""

from __future__ import annotations

from tests.unit.engine.cached_rig import Rig

from forebay.api.recall import Recall
from forebay.core.request import Request

BODY, ANSWER = b"a body", b"an answer"


def remembered(rig: Rig) -> tuple[Recall, Request]:
    """What was asked twice, and is remembered since."""
    recall = Recall(rig.engine)
    rig.ask(3.0)
    rig.run()
    hit = rig.ask(3.0)
    recall.keep(BODY, None, hit.cached, ANSWER)
    return recall, hit


def test_a_body_that_came_before_gets_its_answer() -> None:
    rig = Rig()
    recall, _ = remembered(rig)
    memo = recall.find(BODY, None, rig.now)
    assert memo is not None
    assert memo.body == ANSWER
    assert recall.find(b"another", None, rig.now) is None
    assert recall.find(BODY, ("key", None, None), rig.now) is None


def test_answers_of_other_files_are_not_given() -> None:
    rig = Rig()
    recall, hit = remembered(rig)
    rig.inner.digest = "other"
    assert recall.find(BODY, None, rig.now) is None
    rig.inner.digest = ""
    recall.keep(BODY, None, hit.cached, ANSWER)
    assert recall.find(BODY, None, rig.now) is None


def test_an_answer_is_not_given_after_its_end() -> None:
    rig = Rig(ttl_s=4.0)
    recall, hit = remembered(rig)
    entry = hit.cached.kept
    entry.compute_s = 100.0
    rig.now = entry.refresh_at = rig.now + 1.0
    assert recall.find(BODY, None, rig.now) is None
    assert rig.told(rig.ask(3.0)) == "exact"  # and it is being computed anew
    rig.now = entry.stale_until
    assert recall.find(BODY, None, rig.now) is None
