"""Shares the cores among the models of one server: pauses the instances of those that have had more than their share.

`Fairness` decides; here its decisions become signals. An instance is paused by SIGSTOP, which needs no privilege, takes
microseconds and works in the middle of a batch, and goes on by SIGCONT. How much it has used is read from the system's
clock of its process, threads included, so that a model that only waits for a device or the network is not charged.

A core is kept free of instances while that pays; see `confined`. With one model alone nothing is done at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from forebay.batching.fairness import QUANTUM_S, Claim, Fairness, Member
from forebay.engine.confined import Confinement
from forebay.engine.flight import Flight

HOLD_S = 0.005
"""How long a core that was taken from others for a model stays free for it, as long as it is mostly back by then: to go
on after each of its batches, and stop again a millisecond later, leaves none free when one is needed. It is
anticipatory scheduling (Iyer and Druschel, SOSP 2001), of cores instead of a disk."""

CpuClock = Callable[[int], float]
"""Seconds of processor time that the process of this id has used. Raises `OSError` where there is none."""


class Worker(Protocol):
    """An instance, as far as it uses cores; see `Instance`."""

    paused_at: float
    flights: dict[int, Any]

    @property
    def pid(self) -> int: ...
    def oldest(self) -> Any: ...
    def pause(self, now: float) -> None: ...
    def resume(self, now: float) -> float: ...
    def give_way(self) -> None: ...
    def keep_to(self, cores: frozenset[int], of: frozenset[int]) -> None: ...


class Sharer(Protocol):
    """An engine, as far as it shares cores."""

    turns: Turns | None

    @property
    def name(self) -> str: ...

    def all_instances(self) -> Sequence[Worker]: ...


def cpu_clock(pid: int) -> float:
    """See `CpuClock`. Linux keeps such a clock for each process: clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def unshareable() -> str:
    """Why cores cannot be shared on this system; empty where they can."""
    return "" if sys.platform == "linux" else "only Linux tells what another process has used"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_for(choice: str) -> Cores | None:
    """What shares the cores under this `fair_cores`; None: nothing does, as where the system cannot."""
    if choice == "off" or unshareable():
        return None
    if choice != "auto":
        return Cores(usable_cores())
    return Cores(usable_cores(), hold_s=HOLD_S, numbers=frozenset(os.sched_getaffinity(0)))


class Turn:
    """An instance at work, from its first batch until it has none."""

    __slots__ = ("began_core_s", "claim", "instance", "paused_s", "seen_core_s")

    def __init__(self, instance: Worker, claim: Claim, core_s: float) -> None:
        self.instance = instance
        self.claim = claim
        self.seen_core_s = core_s
        """Up to where it was charged."""
        self.began_core_s = core_s
        """When its present batch began."""
        self.paused_s = 0.0
        """Of its present batch."""


class Cores:
    """The cores of one server, and the engines that share them. On the event loop."""

    def __init__(
        self,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        core_clock: CpuClock = cpu_clock,
        *,
        own_clock: Callable[[], float] = time.process_time,
        hold_s: float = 0.0,
        numbers: frozenset[int] = frozenset(),
    ) -> None:
        """`own_clock`: core seconds that this process has used. `hold_s`: see `HOLD_S`; 0: nothing is left idle.
        `numbers`: of these cores, as the system has them; none: no core is kept free of instances."""
        self._fairness = Fairness(cores, reserves=hold_s > 0)
        self._confinement = Confinement(self._fairness, numbers, clock, self._instances)
        self.hold_s = hold_s
        self._hold: asyncio.TimerHandle | None = None
        self._freed_at = 0.0
        """When there was enough for everybody again."""
        self._comes_back = False
        """Whether there was not, last time, before a hold would have ended."""
        self._clock = clock
        self._core_clock = core_clock
        self._own_clock = own_clock
        self._seen_at, self._seen_own_s = clock(), own_clock()
        """When this process itself was charged last, and up to where."""
        self._members: dict[Sharer, Member] = {}
        self._pairs: set[tuple[str, str]] = set()
        self._turns: dict[Worker, Turn] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._chosen = False
        """Whether the last settlement was a choice, so that some may be paused."""
        self._changed = False
        """Whether anything has begun or ended since then."""

    def join(self, engine: Sharer, weight: float, threads: int) -> None:
        """An engine takes part from now on."""
        self._members[engine] = self._fairness.join(weight, threads)
        self._pair_members()
        if len(self._members) < 2:
            return
        for one in self._members:
            if one.turns is None:
                one.turns = Turns(self, self._members[one])
                for instance in one.all_instances():
                    if instance.flights:
                        one.turns.began(instance)
        self.settle()

    def pair(self, model: str, other: str) -> None:
        """The engines of these models answer for one another, see `Fairness.pair`; also those that join later."""
        if (model, other) not in self._pairs:
            self._pairs.add((model, other))
            self._pair_members()

    def _pair_members(self) -> None:
        for model, other in self._pairs:
            members = [member for engine, member in self._members.items() if engine.name in (model, other)]
            for member in members[1:]:
                self._fairness.pair(members[0], member)

    def leave(self, engine: Sharer) -> None:
        """An engine takes part no longer: its instances run freely. One that does not take part is passed over."""
        member = self._members.get(engine)
        if member is None:
            return
        self._confinement.end()
        del self._members[engine]
        self._forget(engine, member)
        self._fairness.leave(member)
        if len(self._members) == 1:
            for other, its in self._members.items():
                self._forget(other, its)
        self.settle()

    def _instances(self) -> Iterator[Worker]:
        for engine in self._members:
            yield from engine.all_instances()

    def _forget(self, engine: Sharer, member: Member) -> None:
        engine.turns = None
        for instance, turn in list(self._turns.items()):
            if turn.claim.member is member:
                self.end(instance)
                instance.resume(self._clock())

    # -- what the engines tell ----------------------------------------------------------------------------------------

    def begin(self, instance: Worker, member: Member) -> None:
        """An instance got a batch; more than one is no news."""
        if instance in self._turns:
            return
        with contextlib.suppress(OSError):  # it has just ended, and its engine will hear of that
            core_s = self._core_clock(instance.pid)
            self._turns[instance] = Turn(instance, self._fairness.begin(member), core_s)
            self._changed = True

    def landed(self, instance: Worker, busy_s: float, requests: int) -> None:
        """A batch of so many requests came back, `busy_s` seconds after the instance began with it, pauses included."""
        turn = self._turns.get(instance)
        if turn is None:
            return
        self._charge(turn)
        core_s, turn.began_core_s = turn.seen_core_s - turn.began_core_s, turn.seen_core_s
        # What it has written before it was stopped may be read only now.
        turn.paused_s += instance.resume(self._clock())
        if self._fairness.landed(turn.claim, core_s, busy_s - turn.paused_s, requests):
            instance.give_way()
        turn.paused_s = 0.0
        self._changed = True
        if instance.flights:
            self._fairness.next_batch(turn.claim)
        else:
            self.end(instance)

    def end(self, instance: Worker) -> None:
        """An instance works no longer, or is gone."""
        turn = self._turns.pop(instance, None)
        if turn is not None:
            self._fairness.end(turn.claim)
            self._changed = True

    # -- what comes of it ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Pause and resume, where anything has changed."""
        if not self._changed:
            return
        self._changed = False
        fairness = self._fairness
        self._charge_own()
        if fairness.crowded():
            if self._freed_at:
                self._comes_back = self._clock() - self._freed_at < self.hold_s
                self._confinement.returned(self._comes_back)
                self._freed_at = 0.0
            self._hold_no_more()
            for turn in self._turns.values():
                if turn.claim.runs:
                    self._charge(turn)
            fairness.choose()
            self._chosen = True
            if self._tick is None:
                self._tick = asyncio.get_running_loop().call_later(QUANTUM_S, self._on_tick)
        elif self._chosen:
            self._freed_at = self._freed_at or self._clock()
            if self._comes_back and not fairness.idles_most():
                if self._hold is None:
                    self._hold = asyncio.get_running_loop().call_later(self.hold_s, self._on_hold_end)
                return
            self._hold_no_more()
            fairness.all_run()
            self._chosen = False
        else:
            return
        self._go_on()

    def _charge_own(self) -> None:
        now = self._clock()
        if now - self._seen_at >= QUANTUM_S:
            own_s = self._own_clock()
            self._fairness.charge_own(own_s - self._seen_own_s, now - self._seen_at)
            self._seen_at, self._seen_own_s = now, own_s

    def _go_on(self) -> None:
        """Pause and resume as was decided."""
        now = self._clock()
        for instance, turn in self._turns.items():
            if not turn.claim.runs:
                instance.pause(now)
            elif instance.paused_at:
                self._resume(turn, now)

    def _hold_no_more(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _on_hold_end(self) -> None:
        """Whoever the core was free for has not come back."""
        self._hold = None
        if not self._fairness.crowded():
            self._fairness.all_run()
            self._chosen = False
            self._go_on()

    def _resume(self, turn: Turn, now: float) -> None:
        paused_s = turn.instance.resume(now)
        turn.paused_s += paused_s
        flight: Flight | None = turn.instance.oldest()
        if flight is not None:
            flight.began += paused_s  # it does not hang

    def _on_tick(self) -> None:
        self._tick = None
        self._changed = True
        self.settle()

    def _charge(self, turn: Turn) -> None:
        with contextlib.suppress(OSError):
            core_s = self._core_clock(turn.instance.pid)
            self._fairness.charge(turn.claim, core_s - turn.seen_core_s)
            turn.seen_core_s = core_s


class Turns:
    """What an engine tells of its instances while there are others. `None` in its place: it is alone."""

    __slots__ = ("_cores", "_member")

    def __init__(self, cores: Cores, member: Member) -> None:
        self._cores = cores
        self._member = member

    def asked(self) -> None:
        """A request came, whatever becomes of it."""
        self._member.asked += 1

    def began(self, instance: Worker) -> None:
        """A batch was sent to it."""
        self._cores.begin(instance, self._member)

    def landed(self, instance: Worker, busy_s: float, requests: int) -> None:
        """A batch of so many requests came back from it."""
        self._cores.landed(instance, busy_s, requests)

    def lost(self, instance: Worker) -> None:
        """It is gone."""
        self._cores.end(instance)

    def settle(self) -> None:
        """All that had to be told has been."""
        self._cores.settle()
