"""Listing jobs, page by page."""

from __future__ import annotations

import pytest
from tests.contract.jobs.calls import leased, nothing_to_lease, record, submitted, succeed
from tests.contract.jobs.stores import Jobs

from forebay.core.errors import RequestError
from forebay.jobs.record import JobRecord


async def listed(
    jobs: Jobs, tenant: str | None = "anna", model: str = "", state: str = "", limit: int = 50
) -> list[JobRecord]:
    """All pages together."""
    found: list[JobRecord] = []
    cursor = ""
    while True:
        page = await jobs.list(tenant, model=model, state=state, cursor=cursor, limit=limit)
        assert len(page.jobs) <= limit
        found += page.jobs
        if not page.cursor:
            return found
        assert page.cursor != cursor
        cursor = page.cursor


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_pages_together_are_all_jobs_the_newest_first(jobs: Jobs, limit: int) -> None:
    ids = await submitted(jobs, 43)
    assert [found.spec.id for found in await listed(jobs, limit=limit)] == ids[::-1]


async def test_no_jobs_are_one_empty_page(jobs: Jobs) -> None:
    page = await jobs.list("anna")
    assert (list(page.jobs), page.cursor) == ([], "")


async def test_listed_records_are_those_that_are_read_without_outputs(jobs: Jobs) -> None:
    await submitted(jobs, 2, metadata={"a": 1})
    [job] = await leased(jobs)
    await succeed(jobs, job)
    found = await listed(jobs)
    assert sorted(one.state for one in found) == ["queued", "succeeded"]
    assert found == list(await jobs.read([one.spec.id for one in found], output=False))
    assert [one.output for one in found] == [None, None]
    assert [one.spec.body for one in found] == [b"", b""]


async def test_tenants_see_their_own_and_nobody_in_particular_sees_all(jobs: Jobs) -> None:
    mine = await submitted(jobs, 3)
    theirs = await submitted(jobs, 2, tenant="bert")
    assert {found.spec.id for found in await listed(jobs, "anna", limit=2)} == set(mine)
    assert {found.spec.id for found in await listed(jobs, "bert", limit=2)} == set(theirs)
    assert {found.spec.id for found in await listed(jobs, None, limit=2)} == {*mine, *theirs}
    assert await listed(jobs, "") == []


async def test_models_and_states_narrow_a_list(jobs: Jobs) -> None:
    queued = await submitted(jobs, 5)
    other = await submitted(jobs, 4, model="other")
    done = await leased(jobs, 2, model="other")
    for job in done:
        await succeed(jobs, job)
    await jobs.cancel(queued[:1])
    finished = {job.spec.id for job in done}
    assert {found.spec.id for found in await listed(jobs, model="other", limit=3)} == set(other)
    assert {found.spec.id for found in await listed(jobs, state="succeeded", limit=1)} == finished
    assert {found.spec.id for found in await listed(jobs, state="canceled", limit=3)} == {queued[0]}
    waiting = await listed(jobs, model="other", state="queued", limit=1)
    assert {found.spec.id for found in waiting} == set(other) - finished
    assert await listed(jobs, model="none") == []
    assert await listed(jobs, state="failed") == []


async def test_a_few_among_many_are_found(jobs: Jobs) -> None:
    [oldest] = await submitted(jobs, tenant="bert")
    for _ in range(6):
        await submitted(jobs, 500)
    [newest] = await submitted(jobs, tenant="bert")
    assert [found.spec.id for found in await listed(jobs, "bert")] == [newest, oldest]
    assert len(await listed(jobs, "anna", limit=700)) == 3000


async def test_going_on_misses_and_repeats_nothing_while_jobs_come_and_go(jobs: Jobs) -> None:
    ids = await submitted(jobs, 30)
    seen: list[str] = []
    cursor = ""
    for turn in range(40):
        page = await jobs.list("anna", cursor=cursor, limit=5)
        seen += [found.spec.id for found in page.jobs]
        await submitted(jobs, 3)
        if turn == 0:
            await jobs.delete(ids[29])
            await jobs.delete(ids[25])
            await jobs.delete(ids[0])
        cursor = page.cursor
        if not cursor:
            break
    assert seen == ids[:0:-1]


async def test_a_cursor_that_no_page_gave_is_refused(jobs: Jobs) -> None:
    await submitted(jobs)
    with pytest.raises(RequestError, match="'nonsense'") as caught:
        await jobs.list("anna", cursor="nonsense")
    assert caught.value.code == "invalid_request"


async def test_looking_changes_nothing(jobs: Jobs) -> None:
    [id] = await submitted(jobs)
    before = await record(jobs, id)
    for found in [*await listed(jobs), await record(jobs, id)]:
        found.state, found.sequence = "failed", 99
    assert await record(jobs, id) == before
    await leased(jobs)
    assert await nothing_to_lease(jobs)
