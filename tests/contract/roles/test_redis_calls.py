"""`RedisCalls`: what it leaves on its server."""

from __future__ import annotations

import secrets

from tests.contract.jobs.redis_servers import Servers

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.calls import Call
from forebay.jobs.redis_calls import RedisCalls


async def test_all_that_is_kept_of_calls_ends_by_itself_whatever_became_of_them(servers: Servers) -> None:
    prefix, link = f"test-{secrets.token_hex(6)}", RedisLink(str(servers.url("valkey")))
    calls = RedisCalls(link, prefix=prefix)

    async def lasting() -> list[str]:
        """Names of keys without an end."""
        keys = await link.execute("KEYS", f"{prefix}:*")
        names = [key.decode().rpartition("}:")[2] for key in keys if await link.execute("PTTL", key) < 0]
        return sorted(names)

    form = "f" * 16
    await calls.send([Call("caller-12345-1", form, 60.0, b"body"), Call("caller-12345-2", form, 60.0, b"body")])
    assert await lasting() == ["n"]
    taken = (await calls.take("w1", {form: 2})).calls
    await calls.give_back(taken)
    assert await lasting() == ["n"]
    assert len((await calls.take("w2", {form: 2})).calls) == 2
    await calls.close()
    await link.close()
