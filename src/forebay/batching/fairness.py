"""Which of the instances that are at work may use the cores now, where several models want more than there are. Pure.

Each model has an account of the core seconds that it was given, divided by its weight. While there are cores for all,
all run. While there are not, those of the model with the lowest account go first, one core at a time, and the others
are paused where they are; so an overloaded model is stopped in the middle of a long batch for a short one of another.
Nothing is left idle: a model alone takes all.

This is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with preemption and on several cores. What a model
did not ask for is not saved up, but for `CREDIT_S`: the lag that lets a light model run a burst at once (as the warp of
Duda and Cheriton's borrowed virtual time, SOSP 1999, does), and the longest time that another is stopped for it. For
a model that gives way it is a few quanta: at its low priority it may be slow to use up more, and requests of those that
stand still until then pile up.
"""

from __future__ import annotations

from typing import Final

CREDIT_S: Final = 0.2
"""Seconds of the whole machine that a model may lag behind the one that has had most."""
QUANTUM_S: Final = 0.01
"""How long a choice holds: accounts nearer to each other than what one core earns in it count as even."""
LATER_QUANTA: Final = 1.5
"""Credit of a model that gives way, in quanta in which another takes all cores: with less it would lose its share."""
COMPUTES_FROM: Final = 0.25
"""An instance that is on a core for less than this share of its time waits for something else, a device or the network:
it takes as little as it uses. Above, it takes all its threads: it may be short of them because others run."""
LEARN: Final = 0.1
LEARN_OWN: Final = 0.2
LONG_BATCH_S: Final = 0.005
"""A model whose batches take a core for so long gives way: short turns of others cost it little, while its long ones
would hold up the web process, and what hands over the answers of all models. Cheap models need their turns at once."""
LONG_REQUEST_S: Final = 0.002
"""Of such a batch, for each of its requests: it is a rush that makes a batch of many cheap ones long, and their model
would pay for that ever after."""
LONG_S: Final = 0.5
"""So much more of its core seconds went into long batches, while another that had had much less was at work, than into
others: a burst says nothing of a model, nor do the first ones beside another after a time alone, and to give way cannot
be taken back."""
LONG_BATCHES: Final = 8
"""And so many of them: nor does a first one that does more, or one that was held up."""
AHEAD: Final = 0.5
"""Of what that other may lag behind: it asks for less than its share, then. A light model that asks for more than its
share for a moment is never so far ahead of one that takes all it can."""
SPARE_CORES: Final = 0.5
"""One more instance may run while so much of a core is free."""


class Member:
    """A model that shares the cores. `served`: core seconds it was given, over its weight."""

    __slots__ = (
        "asked", "claims", "core_s", "cores", "gives_way", "group", "long_s", "served", "threads", "used", "weight",
    )  # fmt: skip

    def __init__(self, weight: float, threads: int) -> None:
        self.weight = weight
        self.threads = threads
        self.group: object = self
        """The same for those that answer for one another, see `Fairness.pair`."""
        self.served = 0.0
        self.claims: list[Claim] = []
        self.cores = float(threads)
        """What one instance of it takes."""
        self.used = float(threads)
        """Cores that one instance was seen to use while it ran, on average."""
        self.asked = 0
        """Requests that it was sent since the process itself was charged last."""
        self.long_s = 0.0
        """See `LONG_S`; of the batches in which others were at work; 0 at least."""
        self.gives_way = False
        """Whether its instances have a lower priority, once and for all."""
        self.core_s = 0.0
        """Core seconds that its instances have used since `Fairness.light_enough` was asked last."""

    @property
    def stands_still(self) -> bool:
        """Whether all its instances that are at work are paused."""
        return bool(self.claims) and not any(claim.runs for claim in self.claims)

    def saw(self, core_s: float, ran_s: float) -> None:
        """An instance used `core_s` of the cores in `ran_s` seconds in which it was not paused."""
        if ran_s <= 0:
            return
        self.used += LEARN * (min(core_s / ran_s, float(self.threads)) - self.used)
        self.cores = float(self.threads) if self.used >= COMPUTES_FROM else self.used


class Claim:
    """An instance that is at work, and whether it `runs` or is to be paused."""

    __slots__ = ("member", "runs")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.runs = True


class Fairness:
    """The accounts of all models, and the choice."""

    def __init__(self, cores: int, *, reserves: bool = False) -> None:
        """`reserves`: what the process itself uses is left free for it, where several models are at work."""
        self.cores = cores
        self._reserves = reserves
        self._members: list[Member] = []
        self.own_cores = 0.0
        """What the process that works for all models uses: it reads requests, forms batches and writes answers."""
        self._most = 0.0
        """The highest account there has been."""

    def join(self, weight: float, threads: int) -> Member:
        """A model takes part from now on. `weight` is its share, relative to others; `threads` are an instance's."""
        member = Member(weight, threads)
        member.served = self._most
        self._members.append(member)
        return member

    def pair(self, one: Member, other: Member) -> None:
        """These answer for one another, such as a teacher and its student: what one is denied for the other's sake is
        denied to the same callers. Where no other model is at work nothing is paused for one of them, and none gives
        way to one of them. What each is paired with belongs together."""
        gone = other.group
        for member in self._members:
            if member.group is gone:
                member.group = one.group

    def leave(self, member: Member) -> None:
        """A model takes part no longer; its claims are forgotten."""
        self._members.remove(member)

    def begin(self, member: Member) -> Claim:
        """An instance of a model begins to work."""
        claim = Claim(member)
        member.claims.append(claim)
        return claim

    def next_batch(self, claim: Claim) -> None:
        """An instance is done with one batch and begins another: those of its model that were paused in the middle of
        theirs come first, since somebody waits for these for longer."""
        claims = claim.member.claims
        claims.remove(claim)
        claims.append(claim)

    def end(self, claim: Claim) -> None:
        """It is done, or gone."""
        claim.member.claims.remove(claim)

    def charge(self, claim: Claim, core_s: float) -> None:
        """An instance has used so much since it was charged last."""
        claim.member.core_s += core_s
        self._charge(claim.member, core_s)

    def _charge(self, member: Member, core_s: float) -> None:
        member.served += core_s / member.weight
        if member.served > self._most:
            self._most = member.served

    def charge_own(self, core_s: float, elapsed_s: float) -> None:
        """The process itself has used so much in so many seconds, since it was charged last. Each model pays for its
        requests: a cheap one, asked ten thousand times a second, takes most of its cores there. Those that were refused
        count too: they are read, and their refusal is written. One that stands still for a model that gives way pays
        nothing: that one may be too slow to use its turn, and the debt of the first must not grow meanwhile."""
        self.own_cores += LEARN_OWN * (core_s / elapsed_s - self.own_cores)
        asked = sum([member.asked for member in self._members])
        slow = any(member.gives_way and not member.stands_still for member in self._members if member.claims)
        for member in self._members:
            if member.asked:
                if not (slow and member.stands_still):
                    self._charge(member, core_s * member.asked / asked)
                member.asked = 0

    def landed(self, claim: Claim, core_s: float, ran_s: float, requests: int) -> bool:
        """A batch of so many requests came back, for which its instance has used `core_s` of the cores in `ran_s`
        seconds in which it was not paused. Whether instances of this model are to give way from now on."""
        member = claim.member
        member.saw(core_s, ran_s)
        others = [other for other in self._members if other.claims and other.group is not member.group]
        if others:
            ahead = min([other.served for other in others]) + AHEAD * self._lag([member, *others]) < member.served
            long = core_s >= max(LONG_BATCH_S, requests * LONG_REQUEST_S)
            counted_s = min(core_s, LONG_S / LONG_BATCHES)
            member.long_s = max(0.0, member.long_s + (counted_s if long and ahead else -counted_s))
        member.gives_way = member.gives_way or member.long_s >= LONG_S
        return member.gives_way

    def _own_share(self) -> float:
        """Cores that are left to the process itself; one instance at least runs beside it. A model that is at work
        alone would slow down nobody but itself."""
        if not self._reserves or sum([bool(member.claims) for member in self._members]) < 2:
            return 0.0
        return min(self.own_cores, self.cores - SPARE_CORES)

    def crowded(self) -> bool:
        """Whether more is asked for than there is, so that a choice is needed; if not, all claims run."""
        busy = [member for member in self._members if member.claims]
        if len(busy) > 1 and _one_group(busy):
            return False
        wanted = self._own_share()
        for member in self._members:
            wanted += member.cores * len(member.claims)
        return wanted >= self.cores + SPARE_CORES

    def _lag(self, busy: list[Member]) -> float:
        """How far one of these may lag behind the one that has had most."""
        return CREDIT_S * self.cores / (sum([member.weight for member in busy]) or 1.0)

    def choose(self) -> None:
        """Set `runs` of every claim. All that was used is charged before."""
        busy = [member for member in self._members if member.claims]
        lag = later_lag = self._lag(busy)
        if busy:
            later_lag = min(lag, LATER_QUANTA * QUANTUM_S * self.cores / min([member.weight for member in busy]))
        for member in busy:
            member.served = max(member.served, self._most - (later_lag if member.gives_way else lag))
        waiting = [(member.served, place, member, member.claims.copy()) for place, member in enumerate(busy)]
        placed = self._own_share()
        while waiting:
            account, place, member, claims = waiting.pop(waiting.index(min(waiting, key=_account)))
            claim = claims.pop(0)
            claim.runs = placed <= self.cores - SPARE_CORES
            if claim.runs:
                placed += member.cores
            if claims:
                waiting.append((account + member.cores * QUANTUM_S / member.weight, place, member, claims))

    def idles_most(self) -> bool:
        """Whether more than one core has nothing to do, as long as those that do not run are left so."""
        running = self._own_share()
        for member in self._members:
            for claim in member.claims:
                running += member.cores * claim.runs
        return running < self.cores - 1

    def light_enough(self, elapsed_s: float, share: float) -> bool:
        """Whether all instances could do with one core less, by what they have used since this was asked last, so many
        seconds ago: some give way, these have by weight a right to no more cores than that, and the others take at most
        this share of it. Nobody needs more cores at once than that."""
        rest = self.cores - 1
        at_work = [member for member in self._members if member.core_s]
        alone = _one_group(at_work)
        giving = sum([member.weight for member in at_work if member.gives_way])
        light_s = sum([member.core_s for member in at_work if not member.gives_way])
        enough = 0.0 < light_s <= share * rest * elapsed_s and all(member.threads <= rest for member in at_work)
        for member in at_work:
            member.core_s = 0.0
        return enough and not alone and 0.0 < giving * self.cores <= rest * sum([member.weight for member in at_work])

    def all_run(self) -> None:
        """There is enough for everybody."""
        for member in self._members:
            for claim in member.claims:
                claim.runs = True


def _one_group(members: list[Member]) -> bool:
    """Whether these all answer for one another."""
    return all(member.group is members[0].group for member in members)


def _account(entry: tuple[float, int, Member, list[Claim]]) -> tuple[float, int]:
    return entry[0], entry[1]
