"""Who may use the cores: shares by weight, bursts of the light, nothing idle, nobody stopped for long."""

from __future__ import annotations

import pytest

from forebay.batching.fairness import CREDIT_S, LATER_QUANTA, LONG_BATCHES, LONG_S, QUANTUM_S, Claim, Fairness, Member

CORES = 2


def busy(fairness: Fairness, weight: float = 1.0, instances: int = CORES, threads: int = 1) -> Member:
    """A model all of whose instances are at work."""
    member = fairness.join(weight, threads)
    for _ in range(instances):
        fairness.begin(member)
    return member


def running(member: Member) -> int:
    return sum(claim.runs for claim in member.claims)


def pass_time(fairness: Fairness, members: list[Member], seconds: float, step_s: float = QUANTUM_S) -> dict[int, float]:
    """Let the chosen run, and choose anew after each step; core seconds by place in `members`."""
    used = dict.fromkeys(range(len(members)), 0.0)
    for _ in range(round(seconds / step_s)):
        fairness.choose()
        for place, member in enumerate(members):
            for claim in member.claims:
                if claim.runs:
                    fairness.charge(claim, step_s)
                    used[place] += step_s
    return used


def test_a_model_alone_takes_all_cores() -> None:
    fairness = Fairness(CORES)
    member = busy(fairness)
    fairness.join(1.0, 1)
    assert not fairness.crowded()
    fairness.choose()
    assert running(member) == CORES


def test_what_one_leaves_the_others_take() -> None:
    fairness = Fairness(CORES)
    one, two = busy(fairness, instances=1), busy(fairness, instances=2)
    assert fairness.crowded()
    used = pass_time(fairness, [one, two], 5.0)
    assert used[0] == pytest.approx(5.0, rel=0.02)
    assert sum(used.values()) == pytest.approx(CORES * 5.0)
    fairness.end(one.claims[0])
    assert not fairness.crowded()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 10.0), (10.0, 1.0), (2.0, 1.0, 1.0)])
@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("gives_way", [False, True])
def test_shares_are_by_weight(weights: tuple[float, ...], cores: int, gives_way: bool) -> None:
    fairness = Fairness(cores)
    members = [busy(fairness, weight, instances=cores) for weight in weights]
    members[0].gives_way = gives_way
    used = pass_time(fairness, members, 60.0)
    assert sum(used.values()) == pytest.approx(cores * 60.0)
    for place, weight in enumerate(weights):
        assert used[place] / sum(used.values()) == pytest.approx(weight / sum(weights), abs=0.01)


def test_of_one_models_instances_each_gets_its_turn() -> None:
    fairness = Fairness(1)
    member = busy(fairness, instances=2)
    first, second = member.claims
    fairness.choose()
    assert (first.runs, second.runs) == (True, False)
    fairness.next_batch(first)
    fairness.choose()
    assert (first.runs, second.runs) == (False, True)
    fairness.next_batch(second)
    fairness.choose()
    assert (first.runs, second.runs) == (True, False)


def test_one_that_comes_back_goes_first_with_all_its_instances() -> None:
    fairness = Fairness(CORES)
    light = fairness.join(1.0, 1)
    heavy = busy(fairness)
    pass_time(fairness, [heavy], 10.0)
    claims = [fairness.begin(light) for _ in range(CORES)]
    fairness.choose()
    assert [claim.runs for claim in claims] == [True, True]
    assert running(heavy) == 0


def test_nothing_is_saved_up_beyond_the_credit() -> None:
    fairness = Fairness(CORES)
    light = fairness.join(1.0, 1)
    heavy = busy(fairness)
    pass_time(fairness, [heavy], 1000.0)  # the light one asked for nothing all that time
    for _ in range(CORES):
        fairness.begin(light)
    stopped_s = 0.0
    while not running(heavy):
        stopped_s += QUANTUM_S
        pass_time(fairness, [light, heavy], QUANTUM_S)
        assert stopped_s < 1, "the heavy one is starved"
    assert stopped_s <= CREDIT_S + 2 * QUANTUM_S


def test_one_who_worked_alone_does_not_pay_for_it_later() -> None:
    fairness = Fairness(CORES)
    light = fairness.join(1.0, 1)
    heavy = busy(fairness)
    pass_time(fairness, [heavy], 1000.0)
    for claim in list(heavy.claims):
        fairness.end(claim)
    for _ in range(CORES):
        fairness.begin(light)
    pass_time(fairness, [light], 1.0)
    for _ in range(CORES):
        fairness.begin(heavy)
    used = pass_time(fairness, [light, heavy], 10.0)
    assert used[0] == pytest.approx(used[1], rel=0.05)


def test_one_that_few_instances_hold_back_saves_up_nothing_against_newcomers() -> None:
    fairness = Fairness(4)
    single, heavy, late = busy(fairness, instances=1), busy(fairness, instances=4), fairness.join(1.0, 1)
    pass_time(fairness, [single, heavy], 100.0)  # one core of four: less than its half, by its own limit
    for _ in range(4):
        fairness.begin(late)
    used = pass_time(fairness, [single, heavy, late], 10.0)
    assert used[1] == pytest.approx(used[2], rel=0.1)


def test_an_instance_with_threads_takes_as_many_cores() -> None:
    fairness = Fairness(CORES)
    wide, narrow = busy(fairness, instances=1, threads=2), busy(fairness, instances=1)
    assert fairness.crowded()
    fairness.charge(narrow.claims[0], 1.0)
    fairness.choose()
    assert (running(wide), running(narrow)) == (1, 0)


def test_one_that_waits_for_a_device_takes_no_core() -> None:
    fairness = Fairness(CORES)
    device, heavy = busy(fairness, instances=4), busy(fairness)
    for _ in range(50):
        device.saw(core_s=0.001, ran_s=0.1)
    assert not fairness.crowded()
    fairness.choose()
    assert (running(device), running(heavy)) == (4, 2)


def test_one_that_is_short_of_cores_is_not_taken_for_one_that_waits() -> None:
    fairness = Fairness(CORES)
    member, other = busy(fairness), busy(fairness)
    for _ in range(50):
        member.saw(core_s=0.04, ran_s=0.1)
    assert fairness.crowded()
    fairness.choose()
    assert running(member) + running(other) == CORES


def test_what_a_model_that_left_had_is_free_at_once() -> None:
    fairness = Fairness(CORES)
    member, gone = busy(fairness), busy(fairness)
    fairness.leave(gone)
    assert not fairness.crowded()
    fairness.choose()
    assert running(member) == CORES


def test_with_enough_for_all_everybody_runs() -> None:
    fairness = Fairness(CORES)
    members = [busy(fairness), busy(fairness)]
    fairness.choose()
    claims: list[Claim] = [claim for member in members for claim in member.claims]
    assert not all(claim.runs for claim in claims)
    fairness.all_run()
    assert all(claim.runs for claim in claims)


def answers(fairness: Fairness, member: Member, requests: int, core_s: float = 0.001, batches: int = 1) -> bool:
    """Batches of so many requests each; whether the model is to give way after the last."""
    for _ in range(batches - 1):
        fairness.landed(member.claims[0], core_s, core_s, requests)
    return fairness.landed(member.claims[0], core_s, core_s, requests)


def test_each_model_pays_for_what_its_requests_take_of_the_process_itself() -> None:
    fairness = Fairness(1)
    cheap, heavy = busy(fairness, instances=1), busy(fairness, instances=1)
    cheap.asked, heavy.asked = 900, 100
    fairness.charge_own(1.0, elapsed_s=1.0)
    fairness.charge_own(5.0, elapsed_s=5.0)  # nobody was asked meanwhile
    assert [cheap.served, heavy.served] == pytest.approx([0.9, 0.1])
    fairness.choose()
    assert (running(cheap), running(heavy)) == (0, 1)


@pytest.mark.parametrize(("cores", "reserves", "run"), [(2, True, 1), (2, False, 2), (1, True, 1), (4, True, 3)])
def test_what_the_process_itself_uses_is_left_to_it_where_several_are_at_work(
    cores: int, reserves: bool, run: int
) -> None:
    fairness = Fairness(cores, reserves=reserves)
    one, two = busy(fairness, instances=cores), busy(fairness, instances=cores)
    for _ in range(50):
        fairness.charge_own(0.9, elapsed_s=1.0)
    assert fairness.crowded()
    fairness.choose()
    assert running(one) + running(two) == run
    for claim in list(two.claims):
        fairness.end(claim)
    assert not fairness.crowded()
    fairness.choose()
    assert running(one) == cores


@pytest.mark.parametrize(("core_s", "requests", "gives_way"), [(0.001, 1, 0), (0.1, 1, 1), (0.1, 8, 1), (0.1, 64, 0)])
def test_a_model_with_long_batches_gives_way_unless_a_rush_made_them_long(
    core_s: float, requests: int, gives_way: bool
) -> None:
    fairness = Fairness(CORES)
    member, _ = busy(fairness), busy(fairness)
    fairness.charge(member.claims[0], 1.0)
    assert answers(fairness, member, requests, core_s, LONG_BATCHES) == gives_way


def test_a_few_long_batches_say_nothing_of_a_model() -> None:
    fairness = Fairness(CORES)
    member, _ = busy(fairness), busy(fairness)
    fairness.charge(member.claims[0], 1.0)
    assert not answers(fairness, member, 1, 5.0, LONG_BATCHES - 1)
    answers(fairness, member, 64, 0.1, LONG_BATCHES)
    assert not answers(fairness, member, 1, 5.0, LONG_BATCHES - 1)
    assert answers(fairness, member, 1, 5.0)


def test_short_ones_among_many_long_ones_count_by_what_they_take() -> None:
    fairness = Fairness(CORES)
    member, _ = busy(fairness), busy(fairness)
    fairness.charge(member.claims[0], 1.0)
    assert not answers(fairness, member, 1, 0.01, round(LONG_S / 0.01) - 1)
    assert not answers(fairness, member, 1, 0.0001, 50)
    assert answers(fairness, member, 1, 0.01, 2)


def test_a_model_that_is_ahead_now_and_then_does_not_give_way() -> None:
    fairness = Fairness(CORES)
    member, other = busy(fairness), busy(fairness)
    for _ in range(10):
        fairness.charge(member.claims[0], 1.0)
        assert not answers(fairness, member, 1, 0.1, LONG_BATCHES - 1)
        fairness.charge(other.claims[0], 2.0)
        assert not answers(fairness, member, 1, 0.1, LONG_BATCHES - 1)
        member.served = other.served = 0.0


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("ahead_by", [0.0, 0.4])
def test_a_model_that_has_hardly_had_more_than_another_does_not_give_way(cores: int, ahead_by: float) -> None:
    """As two are that both take all they can."""
    fairness = Fairness(cores)
    member, _ = busy(fairness), busy(fairness)
    fairness.charge(member.claims[0], ahead_by * CREDIT_S * cores / 2)
    assert not answers(fairness, member, 1, 0.1, 10 * LONG_BATCHES)


def test_what_it_does_alone_says_nothing_of_it() -> None:
    fairness = Fairness(CORES)
    member, other = busy(fairness), fairness.join(1.0, 1)
    fairness.charge(member.claims[0], 1.0)
    for _ in range(LONG_BATCHES - 1):
        claim = fairness.begin(other)
        assert not answers(fairness, member, 1, 0.1)
        fairness.end(claim)
        assert not answers(fairness, member, 1, 0.1)
    fairness.begin(other)
    assert answers(fairness, member, 1, 0.1)


def test_a_model_below_its_share_does_not_give_way_however_long_its_batches_are() -> None:
    fairness = Fairness(CORES)
    member, other = busy(fairness), busy(fairness)
    fairness.charge(other.claims[0], 1.0)
    assert not answers(fairness, member, 1, 0.1, 10 * LONG_BATCHES)
    for claim in list(other.claims):
        fairness.end(claim)
    assert not answers(fairness, member, 1, 0.1, 10 * LONG_BATCHES)


@pytest.mark.parametrize(("gives_way", "debt_s"), [(False, 0.51), (True, 0.01)])
def test_the_debt_of_a_model_that_stands_still_does_not_grow_while_the_other_may_be_slow(
    gives_way: bool, debt_s: float
) -> None:
    fairness = Fairness(1)
    cheap, heavy = busy(fairness, instances=1), busy(fairness, instances=1)
    heavy.gives_way = gives_way
    fairness.charge(cheap.claims[0], 0.01)
    fairness.choose()
    assert (running(cheap), running(heavy)) == (0, 1)
    cheap.asked = 10
    fairness.charge_own(0.5, elapsed_s=1.0)
    assert cheap.served - heavy.served == pytest.approx(debt_s)
    cheap.asked = 10
    fairness.choose()
    fairness.charge(heavy.claims[0], 1.0)
    fairness.choose()
    assert (running(cheap), running(heavy)) == (1, 0)
    before = cheap.served
    fairness.charge_own(0.5, elapsed_s=1.0)
    assert cheap.served - before == pytest.approx(0.5), "one that runs pays"


@pytest.mark.parametrize(("gives_way", "credit_s"), [(False, CREDIT_S), (True, LATER_QUANTA * QUANTUM_S * CORES)])
def test_others_stand_still_for_a_shorter_time_when_a_model_begins_that_gives_way(
    gives_way: bool, credit_s: float
) -> None:
    fairness = Fairness(CORES)
    heavy, light = busy(fairness), busy(fairness)
    heavy.gives_way = gives_way
    fairness.charge(light.claims[0], 10.0)
    stood_still_s = 0.0
    fairness.choose()
    while not running(light):
        pass_time(fairness, [heavy, light], 0.001, step_s=0.001)
        stood_still_s += 0.001
        fairness.choose()
    assert 0.5 * credit_s / CORES < stood_still_s <= credit_s / CORES + 0.001, "all its instances run"
    used = pass_time(fairness, [heavy, light], 5.0)
    assert used[0] == pytest.approx(used[1], rel=0.05), "from then on shares are by weight"


@pytest.mark.parametrize(
    ("cores", "weights", "giving", "enough"),
    [
        (2, (1.0, 1.0), 1, True),
        (2, (3.0, 1.0), 1, False),
        (2, (1.0, 3.0), 1, True),
        (4, (3.0, 1.0), 1, True),
        (2, (1.0, 1.0, 1.0), 2, False),
        (3, (1.0, 1.0, 1.0), 2, True),
        (2, (1.0, 1.0), 0, False),
        (2, (1.0, 1.0), 2, False),
        (1, (1.0, 1.0), 1, False),
    ],
)
def test_one_core_less_is_enough_where_those_that_give_way_have_no_right_to_more(
    cores: int, weights: tuple[float, ...], giving: int, enough: bool
) -> None:
    fairness = Fairness(cores)
    fairness.join(100.0, 1)  # asked for nothing: it does not count
    members = [busy(fairness, weight=weight) for weight in weights]
    for place, member in enumerate(members):
        member.gives_way = place < giving
        fairness.charge(member.claims[0], 1.0 if place < giving else 0.1)
    assert fairness.light_enough(1.0, 0.25) == enough
    assert not fairness.light_enough(1.0, 0.25), "nobody was at work since"


@pytest.mark.parametrize(("light_s", "threads", "enough"), [(0.2, 1, True), (0.3, 1, False), (0.2, 2, False)])
def test_one_core_less_is_enough_where_the_light_take_little_of_it_and_nobody_needs_more_at_once(
    light_s: float, threads: int, enough: bool
) -> None:
    fairness = Fairness(CORES)
    heavy, light = fairness.join(1.0, threads), busy(fairness)
    heavy.gives_way = True
    fairness.charge(fairness.begin(heavy), 1.0)
    fairness.charge(light.claims[0], light_s)
    assert fairness.light_enough(1.0, 0.25) == enough


def test_models_that_answer_for_one_another_share_as_one_would_alone() -> None:
    fairness = Fairness(CORES, reserves=True)
    teacher, student, other = busy(fairness), busy(fairness), fairness.join(1.0, 1)
    assert fairness.crowded()
    fairness.pair(teacher, student)
    assert not fairness.crowded(), "what one is denied is denied to the same callers"
    assert not answers(fairness, teacher, 1, 0.1, 5 * LONG_BATCHES), "no priority is lowered for the other of the two"
    fairness.begin(other)
    assert fairness.crowded()


def test_no_core_is_kept_free_for_one_of_two_that_answer_for_one_another() -> None:
    fairness = Fairness(CORES)
    teacher, student = busy(fairness, instances=1), busy(fairness, instances=1)
    teacher.gives_way = True
    for paired in (False, True):
        if paired:
            fairness.pair(student, teacher)
        fairness.charge(teacher.claims[0], 0.8)
        fairness.charge(student.claims[0], 0.1)
        assert fairness.light_enough(1.0, 0.25) != paired


def test_what_each_is_paired_with_belongs_together() -> None:
    fairness = Fairness(CORES)
    members = [busy(fairness) for _ in range(4)]
    fairness.pair(members[0], members[1])
    fairness.pair(members[2], members[3])
    assert fairness.crowded()
    fairness.pair(members[3], members[0])
    assert not fairness.crowded()
