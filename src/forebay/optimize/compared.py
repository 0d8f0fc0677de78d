"""The outputs of a model that candidates are compared by: the one that was asked for, and loosely all others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from forebay.core.tensors import Array
from forebay.optimize import agreement, gate, invariance
from forebay.optimize.goals import Asked, goals_for
from forebay.optimize.heads import Head
from forebay.optimize.metric import OwnMetric
from forebay.optimize.report import Agreement, Goals, Invariance, OtherOutput

LOOSER = 10.0
"""Outputs that nobody asked for may differ by so many times the usual drop: whatever was meant, they are still the
same outputs."""
_TRIED = 8

Answers = Sequence[Sequence[Array]]
"""By sample or batch, then by output."""


@dataclass(frozen=True)
class Compared:
    """One output, by `place` in the signature. `alone`: the original's answer to each held-out sample by itself."""

    name: str
    place: int
    goals: Goals
    alone: Sequence[Array]
    labels: Sequence[str] = ()
    head: Head | None = None
    own: OwnMetric | None = None

    def of(self, answers: Answers) -> list[Array]:
        """This output's part."""
        return [outputs[self.place] for outputs in answers]

    def agreement(self, alone: Sequence[Array]) -> Agreement:
        """Of a candidate's answers with the original's."""
        found = agreement.compare(self.alone, alone, self.labels, self.head)
        return found if self.own is None else self.own.added(found, alone)

    @property
    def tolerance(self) -> float:
        """Largest difference of two answers that count as the same: 0 for whole numbers and texts."""
        return self.goals.batch_tolerance * agreement.scale_of(self.alone) if self.alone[0].dtype.kind == "f" else 0.0

    def invariance(self, alone: Sequence[Array], batches: Sequence[Sequence[int]], answers: Answers) -> Invariance:
        """Of a model that answered `alone` to samples by themselves and `answers` to batches of them."""
        return invariance.judge(alone, batches, self.of(answers), self.tolerance)

    def blind(self) -> str:
        """What a model that looks at nothing could answer to everything and pass; empty: the samples tell it apart."""
        perfect = self.agreement(self.alone)
        for index in range(0, len(self.alone), max(1, len(self.alone) // _TRIED)):
            always = self.alone[index]
            if any(value.shape != always.shape for value in self.alone):
                return ""
            found = self.agreement([always] * len(self.alone))
            if gate.check_answers(self.goals, perfect, found) is None:
                return gate.described(self.goals, found)
        return ""


def others_of(asked: Asked, names: Sequence[str], main: str, alone: Answers) -> list[Compared]:
    """The outputs beside `main`."""
    found = []
    for place, name in enumerate(names):
        if name == main:
            continue
        answers = [outputs[place] for outputs in alone]
        goals = goals_for(replace(asked, metric=None, max_drop=None), name, answers, labelled=False)
        looser = min(LOOSER * goals.max_drop, 0.5) if goals.metric != "max_error" else LOOSER * goals.max_drop
        found.append(Compared(name, place, msgspec.structs.replace(goals, max_drop=looser), answers))
    return found


def told(one: Compared, found: Agreement) -> OtherOutput:
    """How another output agrees, for the report."""
    return OtherOutput(name=one.name, metric=one.goals.metric, max_drop=one.goals.max_drop, agreement=found)
