"""The parts as they are used: look up, serve, compare some hits, turn off, tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.semantic.partition import Partition
from forebay.cache.semantic.policy import SemanticPolicy
from forebay.cache.semantic.shadow import Shadow, reading, same_outputs
from forebay.cache.semantic.tier import SemanticTier
from forebay.core.request import Outputs
from forebay.core.tensors import Array

HERE = Partition(model="m", artefact="1", parameters=b"", system_prompt="", tenant="", embedder="e", locale="")


class Service:
    """Answers by its model, unless the tier knows an answer; some hits run the model as well."""

    def __init__(self, model: Callable[[str], str]) -> None:
        self.tier = SemanticTier(LocalIndex(), Guard(load_lexicon()), SemanticPolicy())
        self.shadow = Shadow(
            self.tier.turn_off,
            sample_rate=0.5,
            max_false_hit_rate=0.2,
            least_hits=10,
            draw=iter(np.tile([0, 0.9], 99)).__next__,
        )
        self.answers: dict[str, Outputs] = {}
        self.runs = 0
        self._model = model

    async def answer(self, text: str) -> bytes:
        found = await self.tier.find(HERE, text, embed)
        served = self.run(text) if found.hit is None else self.answers[found.hit.entry_id]
        if found.hit is not None and self.shadow.wants(found.hit.way):
            self.shadow.record(found.hit.way, same_outputs(served, self.run(text)))
        if found.hit is None and found.vector is not None:
            entry_id = f"e{len(self.answers)}"
            self.answers[entry_id] = served
            await self.tier.store(HERE, entry_id, text, found.vector)
        answer: bytes = served.arrays[0][0, 0]
        return answer

    def run(self, text: str) -> Outputs:
        self.runs += 1
        return Outputs(["y"], ["BYTES"], [np.array([[self._model(text).encode()]], object)], 1)


async def embed(text: str) -> Array:
    """All texts lie together: an embedder that sees no difference at all."""
    return np.array([1.0, 0.0, 0.0], np.float32)


async def test_a_tier_whose_hits_are_right_goes_on() -> None:
    service = Service(lambda text: "the answer")
    for number in range(40):
        assert await service.answer(f"Please {'mend' if number % 2 else 'repair'} a tyre") == b"the answer"
    assert (service.shadow.compared, service.shadow.false_hits, service.tier.off) == (20, 0, set())
    assert service.runs == 1 + 20


async def test_a_tier_whose_hits_are_wrong_turns_itself_off_and_tells() -> None:
    """The guard does not see that a word was added; the model's answers differ by it."""
    service = Service(lambda text: f"{len(text)}")
    texts = ["Mend a tyre", *(f"Mend a tyre {'soft ' * count}" for count in range(1, 30))]
    answers = [await service.answer(text) for text in texts]
    assert answers[1] == answers[0]
    assert service.tier.off == {"semantic"}
    told = reading(service.tier.counts, service.shadow)
    assert told.ways == {"semantic": (3, 3, 1.0, True), "normalised": (0, 0, None, False)}
    assert told.lookups["semantic"] == 5
    assert told.lookups["off"] > 20
    assert answers[-1] == f"{len(texts[-1])}".encode()
