"""What the tier serves, and that whatever fails is a miss."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.index import Kept, Match
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.prompt import prompt_of_chat, prompt_of_text, to_embed
from forebay.cache.semantic.tier import SemanticTier, Verifier
from forebay.core.errors import AdmissionError, DeadlineExceeded, DependencyError
from forebay.core.tensors import Array

HERE = Partition(
    model="answers", artefact="d1/1", parameters=b"{}", system_prompt="Be kind.", tenant="a", embedder="e1", locale="en"
)
NORTH = np.array([1.0, 0.0, 0.0], np.float32)
NEARLY = np.array([0.99, 0.1, 0.0], np.float32)
EAST = np.array([0.0, 1.0, 0.0], np.float32)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(load_lexicon())


def tier_of(guard: Guard, verifier: Verifier | None = None, **policy: float) -> SemanticTier:
    return SemanticTier(LocalIndex(), guard, SemanticPolicy(**policy), verifier)  # type: ignore[arg-type]


async def test_a_near_text_is_served_and_a_far_one_is_not(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    hit = await tier.lookup(HERE, "How do I repair a tyre?", NEARLY * 7)
    assert hit is not None
    assert (hit.entry_id, hit.text, hit.way) == ("e1", "How do I mend a tyre?", "semantic")
    assert hit.score == pytest.approx(0.99 / np.hypot(0.99, 0.1), abs=1e-6)
    assert await tier.lookup(HERE, "How do I repair a tyre?", EAST) is None
    assert tier.counts == {"semantic": 1, "none_near": 1}


async def test_what_the_guard_refuses_is_a_miss_however_near(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "Turn the pump on", NORTH)
    assert await tier.lookup(HERE, "Turn the pump off", NORTH) is None
    assert tier.counts == {"guard_opposites": 1}


async def test_a_refused_text_does_not_hide_the_next_one(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "Turn the pump on", NORTH)
    await tier.store(HERE, "e2", "Please turn the pump off", NEARLY)
    hit = await tier.lookup(HERE, "Turn the pump off", NORTH)
    assert hit is not None
    assert hit.entry_id == "e2"


CHANGES: list[dict[str, Any]] = [
    {"model": "other"},
    {"artefact": "d2/1"},
    {"parameters": b'{"temperature":1}'},
    {"system_prompt": "Be brief."},
    {"tenant": "b"},
    {"embedder": "e2"},
    {"locale": "fr"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
async def test_another_partition_is_never_looked_at(guard: Guard, change: dict[str, Any]) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    there = msgspec.structs.replace(HERE, **change)
    assert await tier.lookup(there, "How do I mend a tyre?", NORTH) is None
    assert await tier.same_words(there, "How do I mend a tyre?") is None


def test_fields_of_a_partition_do_not_run_into_each_other() -> None:
    def key(tenant: str, locale: str) -> str:
        return msgspec.structs.replace(HERE, tenant=tenant, locale=locale).key()

    pairs = list(itertools.product(("", "a", "ab", "abc"), ("", "c", "bc", "abc")))
    assert len({key(*pair) for pair in pairs}) == len(pairs)
    assert {name for change in CHANGES for name in change} == set(Partition.__struct_fields__)


async def test_the_same_words_need_no_vector(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    for text in ("how do i mend a tyre", "How  do I\nmend a tyre ?", "HOW DO I MEND A TYRE!"):
        hit = await tier.same_words(HERE, text)
        assert hit is not None, text
        assert (hit.entry_id, hit.way) == ("e1", "normalised")
    assert await tier.same_words(HERE, "How do I mend tyres?") is None


async def test_the_embedder_runs_only_where_it_is_needed(guard: Guard) -> None:
    embedded = []

    async def embed(text: str) -> Array:
        embedded.append(text)
        if text == "fail":
            raise AdmissionError("full")
        if text == "late":
            raise DeadlineExceeded("too late", stage="queued")
        return NORTH

    tier = tier_of(guard, max_text_bytes=60)
    missed = await tier.find(HERE, "How do I mend a tyre?", embed)
    assert missed.hit is None
    assert missed.vector is NORTH
    await tier.store(HERE, "e1", "How do I mend a tyre?", missed.vector)
    same = await tier.find(HERE, "how do i mend a tyre", embed)
    near = await tier.find(HERE, "How do I repair a tyre?", embed)
    assert same.hit is not None
    assert near.hit is not None
    assert (same.hit.way, near.hit.way) == ("normalised", "semantic")
    assert await tier.find(HERE, "a " * 60, embed) == (None, None)
    assert await tier.find(HERE, "fail", embed) == (None, None)
    assert await tier.find(HERE, "late", embed) == (None, None)
    assert embedded == ["How do I mend a tyre?", "How do I repair a tyre?", "fail", "late"]
    became = {"none_near": 1, "normalised": 1, "semantic": 1, "too_long": 1, "embed_error": 1, "timeout": 1}
    assert tier.counts == became


async def test_the_guard_sees_case_that_the_normalised_form_has_lost(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "Where do they polish silver?", NORTH)
    assert await tier.same_words(HERE, "Where do they Polish silver?") is None
    await tier.store(HERE, "e2", "What is 5?", EAST)
    assert await tier.same_words(HERE, "What is 5!") is None


async def test_what_was_forgotten_is_not_served(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    await tier.forget(HERE, "e1")
    assert await tier.lookup(HERE, "How do I mend a tyre?", NORTH) is None
    assert await tier.same_words(HERE, "How do I mend a tyre?") is None


async def test_long_texts_are_neither_kept_nor_looked_up(guard: Guard) -> None:
    tier = tier_of(guard, max_text_bytes=20)
    await tier.store(HERE, "e1", "é" * 11, NORTH)
    assert await tier.lookup(HERE, "é" * 11, NORTH) is None
    assert await tier.same_words(HERE, "é" * 11) is None
    assert tier.counts == {"too_long": 2}


async def test_a_tier_that_is_off_serves_nothing_near(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    tier.turn_off("semantic")
    assert await tier.lookup(HERE, "How do I repair a tyre?", NORTH) is None
    assert tier.counts == {"off": 1}
    assert await tier.same_words(HERE, "how do i mend a tyre") is not None


async def test_the_same_words_that_are_off_are_not_found_by_their_vectors_either(guard: Guard) -> None:
    tier = tier_of(guard)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    tier.turn_off("normalised")
    assert await tier.same_words(HERE, "how do i mend a tyre") is None
    assert await tier.lookup(HERE, "how do i mend a tyre", NORTH) is None
    assert tier.counts == {"off": 1}
    hit = await tier.lookup(HERE, "How do I repair a tyre?", NORTH)
    assert hit is not None
    assert hit.way == "semantic"


@pytest.mark.parametrize("bad", [[0.0, 0.0, 0.0], [np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0]])
async def test_a_vector_without_direction_is_a_miss(guard: Guard, bad: list[float]) -> None:
    tier = tier_of(guard, threshold=-1.0)
    await tier.store(HERE, "bad", "How do I mend a tyre?", np.array(bad))
    await tier.store(HERE, "e1", "How do I mend a bell?", NORTH)
    assert await tier.lookup(HERE, "How do I mend a bell?", np.array(bad)) is None
    assert await tier.same_words(HERE, "How do I mend a tyre?") is None
    assert tier.counts == {"vector": 1}


async def test_a_verifier_has_the_last_word(guard: Guard) -> None:
    asked = []

    async def verifier(text: str, kept: str) -> bool:
        asked.append((text, kept))
        return len(asked) > 1

    tier = tier_of(guard, verifier)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    assert await tier.lookup(HERE, "How do I repair a tyre?", NORTH) is None
    assert await tier.lookup(HERE, "How do I repair a tyre?", NORTH) is not None
    assert asked == 2 * [("How do I repair a tyre?", "How do I mend a tyre?")]
    assert await tier.lookup(HERE, "How do I repair a bell?", NORTH) is None
    assert len(asked) == 2, "the verifier is not asked what the guard has refused"


@pytest.mark.parametrize("slow", [False, True])
async def test_a_verifier_that_fails_or_hangs_is_a_miss(guard: Guard, slow: bool) -> None:
    async def verifier(text: str, kept: str) -> bool:
        if slow:
            await asyncio.Event().wait()
        raise RuntimeError("no")

    tier = tier_of(guard, verifier, verifier_timeout_s=0.02)
    await tier.store(HERE, "e1", "How do I mend a tyre?", NORTH)
    assert await tier.lookup(HERE, "How do I mend a tyre", NORTH) is None
    assert tier.counts == {"verifier_error": 1}


class BrokenIndex(LocalIndex):
    """An index that cannot be reached."""

    async def add(self, partition: str, kept: Kept) -> None:
        raise DependencyError("away")

    async def same(self, partition: str, normal: str) -> Match | None:
        raise DependencyError("away")

    async def near(self, partition: str, vector: Array, at_least: float, most: int) -> Sequence[Match]:
        raise DependencyError("away")

    async def remove(self, partition: str, entry_id: str) -> None:
        raise DependencyError("away")


async def test_an_index_that_is_away_is_a_miss(guard: Guard) -> None:
    tier = SemanticTier(BrokenIndex(), guard, SemanticPolicy())
    await tier.store(HERE, "e1", "a", NORTH)
    assert await tier.lookup(HERE, "a", NORTH) is None
    assert await tier.same_words(HERE, "a") is None
    await tier.forget(HERE, "e1")
    assert tier.counts == {"index_error": 4}


async def test_every_turn_of_a_chat_counts(guard: Guard) -> None:
    def chat(*contents: str) -> str:
        roles = itertools.cycle(("user", "assistant"))
        prompt = prompt_of_chat([{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)])
        assert prompt is not None
        return prompt.text

    tier = tier_of(guard)
    await tier.store(HERE, "e1", chat("I rent a boat at Oban.", "Shall I cancel it?", "Yes, cancel it"), NORTH)
    served = chat("i rent a boat at Oban", "Shall I cancel it?", "Yes, please cancel it!")
    hit = await tier.lookup(HERE, served, NORTH)
    assert hit is not None
    assert hit.entry_id == "e1"
    for other in (
        chat("I rent a boat at Mallaig.", "Shall I cancel it?", "Yes, cancel it"),
        chat("I rent a boat at Oban.", "Shall I cancel it?", "No, keep it"),
        chat("Yes, cancel it"),
        "Yes, cancel it",
    ):
        assert await tier.lookup(HERE, other, NORTH) is None


def test_system_prompts_are_set_apart_and_what_is_no_text_is_not_compared() -> None:
    prompt = prompt_of_chat([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\x1e\x1fthere"}])
    assert prompt is not None
    assert ("Be kind." in prompt.system, to_embed(prompt.text)) == (True, "user: Hi  there")
    late = prompt_of_chat([{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}])
    assert late is not None
    assert late.system != prompt.system
    assert prompt_of_chat([{"role": "user", "content": [{"type": "image"}]}]) is None
    assert prompt_of_chat([{"role": "assistant", "content": "", "tool_calls": []}]) is None
    assert prompt_of_chat([{"role": "system", "content": "Be kind."}]) is None
    assert to_embed(prompt_of_text("plain").text) == "plain"


async def test_the_same_letters_are_not_the_same_words(guard: Guard) -> None:
    tier = tier_of(guard)
    for number, (kept, asked) in enumerate(
        (("What is 10² ?", "What is 102?"), ("Is it 👍?", "Is it 👎?"), ("Is 5 MW much?", "Is 5 mW much?"))
    ):
        await tier.store(HERE, f"e{number}", kept, NORTH)
        assert (await tier.same_words(HERE, kept)) is not None
        assert (await tier.same_words(HERE, asked)) is None
        assert (await tier.lookup(HERE, asked, NORTH)) is None
