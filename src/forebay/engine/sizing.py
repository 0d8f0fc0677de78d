"""How many instances, of how many threads each: what there is to try, and which of it is taken.

Pure: the caller brings the clock and the measuring. What is tried is grouped by threads, since processes of the same
thread count serve every number of instances; two groups are loaded at a time at most. In each round all that is
compared is measured once, one right after the other, so that a slow spell of the machine hits all alike, and only
figures of one round are compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple, Protocol

BUDGET_S: Final = 20.0
"""Longest time for measuring one model, loading the candidates included."""
LEAST_ROUNDS: Final = 3
MOST_ROUNDS: Final = 15
FEWEST_ROUNDS: Final = 2
"""Where time runs out: fewer than this decide nothing."""
MARGIN: Final = 0.03
"""Two settings whose throughput differs by less are alike; the smaller one is then taken."""
FAR: Final = 0.08
"""More threads are not tried further where fewer are ahead by more than this."""
SURE: Final = 2.0
"""A comparison is settled when it holds by so many standard errors of the median."""
LEAST_ERROR: Final = 0.01
"""Few rounds may agree by chance: no error is taken to be smaller."""


NETWORK_S: Final = 5e-6
"""What a request costs the machine beside the web process and the model: the kernel's part, interrupts, and whoever
sends from the same machine. There is nothing of it where candidates are measured."""
MOST_FOR_NETWORK: Final = 0.3
"""Of a rate, at most so much is taken off for that."""


class Size(NamedTuple):
    """So many instances, each of so many threads."""

    instances: int
    threads: int

    @property
    def cost(self) -> tuple[int, int]:
        """What it takes of the machine, to be compared: threads in all, then processes."""
        return self.instances * self.threads, self.instances

    def __str__(self) -> str:
        return f"{self.instances}x{self.threads}"


class TrialError(Exception):
    """A candidate cannot be measured; the message says why."""


class World(Protocol):
    """Where candidates run."""

    async def load(self, size: Size) -> None:
        """Have so many processes of so many threads ready. Raises `TrialError`."""
        ...

    async def rate(self, size: Size) -> float:
        """Rows a second over a short while, of what was loaded with at least as many instances. Raises `TrialError`."""
        ...

    async def unload(self, threads: int) -> None:
        """End the processes of this thread count."""
        ...


@dataclass(slots=True)
class Finding:
    """What came of a search. `rates`: rows a second, the median of what was measured. `reason`: what else is to say."""

    chosen: Size
    rates: dict[Size, float] = field(default_factory=dict)
    reason: str = ""


def candidates(
    cores: int, usual: Size, *, instances: int | None, threads: int | None, most_instances: int
) -> list[list[Size]]:
    """What to try, in groups of one thread count; the first group holds `usual`. One candidate in all: nothing to try.

    instances, threads: what the operator has fixed. most_instances: as many fit into memory.
    """
    counts = [threads] if threads is not None else _thread_counts(cores)
    groups: list[list[Size]] = []
    for count in counts:
        full = max(1, min(cores // count, most_instances))
        # One less leaves a core to the web process, which is all that a light model needs.
        numbers = {full, full - 1, full // 2, 1 if full <= 4 else 0} if instances is None else {instances}
        if count == usual.threads:
            numbers.add(usual.instances)
        elif instances is not None and instances * count > cores:
            continue
        groups.append([Size(number, count) for number in sorted(numbers, reverse=True) if number > 0])
    groups.sort(key=lambda group: (usual not in group, group[0].threads))
    return groups


def _thread_counts(cores: int) -> list[int]:
    return sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores})


async def search(
    groups: Sequence[Sequence[Size]],
    usual: Size,
    world: World,
    clock: Callable[[], float],
    end: float,
    tell: Callable[[Mapping[Size, float]], None],
) -> Finding:
    """Measure the candidates and say which one to take; `usual` where nothing could be found out.

    end: the instant on `clock` at which it must be over. tell: hears the rates of each round, in rows a second.
    """
    found = _Search(usual, world, clock, end, tell)
    for place, group in enumerate(groups):
        if not await found.try_group(group, len(groups) - place, first=place == 0):
            break
    return found.finding()


class _Search:
    def __init__(
        self,
        usual: Size,
        world: World,
        clock: Callable[[], float],
        end: float,
        tell: Callable[[Mapping[Size, float]], None],
    ) -> None:
        self._usual = self._best = usual
        self._world, self._clock, self._end, self._tell = world, clock, end, tell
        self._rates: dict[Size, list[float]] = {}
        self._reasons: list[str] = []

    def finding(self) -> Finding:
        rates = {size: median(taken) for size, taken in self._rates.items()}
        return Finding(self._best, rates, "; ".join(self._reasons))

    async def try_group(self, group: Sequence[Size], groups_left: int, *, first: bool) -> bool:
        """Measure a group against the best so far. Whether to go on with the next one; this one counts as left."""
        largest = max(group)
        before = self._best
        if self._clock() >= self._end:
            self._reasons.append(f"time ran out before {largest}")
            return False
        try:
            await self._world.load(largest)
        except TrialError as error:
            self._reasons.append(f"{largest} failed: {error}")
            # Without the usual one there is nothing to compare with; of the others each stands for itself.
            return not first
        # The groups that follow have as much time each.
        end = self._clock() + (self._end - self._clock()) / groups_left
        rounds, complete = await self._measure([before, *(size for size in group if size != before)], end)
        if len(rounds) >= FEWEST_ROUNDS:
            self._best = choose(rounds, before)
        ahead = any(ratio_of(rounds, size, before) >= 1 - FAR for size in group)
        for threads in {size.threads for size in (before, *group)} - {self._best.threads}:
            await self._world.unload(threads)
        # More threads are hardly better where some more were clearly worse.
        return complete and (first or ahead)

    async def _measure(self, contenders: list[Size], end: float) -> tuple[list[dict[Size, float]], bool]:
        """Rounds, and whether they were enough to decide. The first contender is the one to beat."""
        rounds: list[dict[Size, float]] = []
        before = contenders[0]
        longest_s = 0.0
        while len(rounds) < MOST_ROUNDS and len(contenders) > 1:
            rates: dict[Size, float] = {}
            # Forwards and backwards in turns: what comes later in a round has no lasting advantage.
            for size in list(contenders) if len(rounds) % 2 == 0 else list(reversed(contenders)):
                began = self._clock()
                missing = max(1, FEWEST_ROUNDS - len(rounds)) * len(contenders) - len(rates)
                if began + missing * longest_s > end:
                    if len(rounds) < FEWEST_ROUNDS:
                        self._reasons.append(f"it is too slow for {size} to be measured in time")
                    return rounds, len(rounds) >= FEWEST_ROUNDS
                try:
                    rates[size] = await self._world.rate(size)
                except TrialError as error:
                    self._reasons.append(f"{size} failed: {error}")
                    if size == before:
                        return rounds, False
                    contenders.remove(size)
                longest_s = max(longest_s, self._clock() - began)
            rounds.append(rates)
            for size, rate in rates.items():
                self._rates.setdefault(size, []).append(rate)
            self._tell(rates)
            if len(rounds) >= LEAST_ROUNDS:
                leader = max(contenders, key=lambda size: ratio_of(rounds, size, before))
                verdicts = {size: verdict_of(rounds, size, leader) for size in contenders if size != leader}
                if None not in verdicts.values():
                    break
                contenders = [size for size in contenders if size == before or verdicts.get(size, True) is not False]
        return rounds, True


def beside_network(rate: float, rows: float, size: Size, cores: int) -> float:
    """What is left of a measured rate (rows a second, `rows` to a request) where the network needs its part of the
    cores: it has to come from a size that takes all of them, and is free where one is left."""
    if size.instances * size.threads < cores:
        return rate
    return rate * (1.0 - min(MOST_FOR_NETWORK, rate / rows * NETWORK_S / cores))


def compare(rounds: Sequence[Mapping[Size, float]], one: Size, other: Size) -> tuple[float, float] | None:
    """How much more one does than the other (natural logarithm), and how far off that may be; None: never together."""
    logs = [math.log(rates[one] / rates[other]) for rates in rounds if rates.get(one) and rates.get(other)]
    if not logs:
        return None
    middle = median(logs)
    # Of the median, for a normal distribution; from the median deviation, which a stall does not move.
    error = 1.2533 * 1.4826 * median(abs(value - middle) for value in logs) / math.sqrt(len(logs))
    return middle, SURE * max(LEAST_ERROR, error)


def verdict_of(rounds: Sequence[Mapping[Size, float]], size: Size, leader: Size) -> bool | None:
    """Whether a size is as good as the leader (True) or not good enough to be taken (False); None: not settled yet.

    A smaller one is good enough within the margin; a larger one would have to be better.
    """
    compared = compare(rounds, size, leader)
    if compared is None:
        return False
    middle, reach = compared
    if middle + reach < math.log(1 - MARGIN) or (size.cost > leader.cost and middle + reach < MARGIN):
        return False
    if size.cost < leader.cost and middle - reach > math.log(1 - MARGIN):
        return True
    return None


def ratio_of(rounds: Sequence[Mapping[Size, float]], one: Size, other: Size) -> float:
    """Throughput of one over the other's: the median of what each round says; 0 where none has both."""
    ratios = [rates[one] / rates[other] for rates in rounds if rates.get(one) and rates.get(other)]
    return median(ratios) if ratios else 0.0


def choose(rounds: Sequence[Mapping[Size, float]], before: Size) -> Size:
    """The one to take: the best of those that are surely better than the one from before, else that one; and in its
    place the smallest that is as good within the margin.

    Few rounds tell less: then the margin to be better by is twice as large, and nothing smaller is taken.
    """
    known = {size for rates in rounds for size in rates}
    few = len(rounds) < LEAST_ROUNDS
    leader, lead = before, math.log(1 + (2 * MARGIN if few else MARGIN))
    for size in known - {before}:
        compared = compare(rounds, size, before)
        if compared is not None and compared[0] > lead and compared[0] > compared[1]:
            leader, lead = size, compared[0]
    if few or before not in known:
        return leader
    alike = [size for size in known if ratio_of(rounds, size, leader) >= 1 - MARGIN]
    return min(alike, key=lambda size: (size.cost[0], size != before, size.cost[1]), default=leader)
