"""A URL becomes a client, and what goes wrong is told without passwords."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.jobs.redis_servers import Server, free_port, redis_server, valkey

from forebay.brokers.redis_link import RedisLink, unless_canceled
from forebay.brokers.redis_url import RedisAddress, parse_url
from forebay.core.errors import DependencyError, ForebayError, SetupError

SECRET = "s3cret"


@contextlib.asynccontextmanager
async def linked(url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(url)
    try:
        yield link
    finally:
        await link.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisAddress(shown="redis://", kind="single", hosts=(("127.0.0.1", 6379),))),
        (
            "rediss://anna:p%40ss@host:7000/3",
            RedisAddress(
                shown="rediss://host:7000/3",
                kind="single",
                hosts=(("host", 7000),),
                tls=True,
                options={"username": "anna", "password": "p@ss", "db": 3},
            ),
        ),
        (
            "unix:///run/s%20x?db=2&password=pw",
            RedisAddress(
                shown="unix:///run/s%20x", kind="single", path="/run/s x", options={"db": 2, "password": "pw"}
            ),
        ),
        (
            "redis+sentinel://:pw@a:1,[::1]:2,c/jobs?sentinel_password=spw",
            RedisAddress(
                shown="redis+sentinel://a:1,[::1]:2,c/jobs",
                kind="sentinel",
                hosts=(("a", 1), ("::1", 2), ("c", 26379)),
                service="jobs",
                options={"password": "pw"},
                sentinel_options={"password": "spw"},
            ),
        ),
        (
            "rediss+cluster://a:1,b:2",
            RedisAddress(shown="rediss+cluster://a:1,b:2", kind="cluster", hosts=(("a", 1), ("b", 2)), tls=True),
        ),
    ],
)
def test_a_url_is_understood(url: str, expected: RedisAddress) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://u:{SECRET}@host", "is no URL of a Redis or Valkey; write redis://"),
        (f"unix+cluster://u:{SECRET}@host", "is no URL"),
        (f"redis://u:{SECRET}@host:port", "'host:port' is no HOST:PORT"),
        (f"redis://u:{SECRET}@host/three", "database must be a number, got 'three'"),
        (f"redis+sentinel://u:{SECRET}@host", "names no service"),
        (f"redis+cluster://u:{SECRET}@host/1", "database 0 only"),
        (f"unix://?password={SECRET}", "names no socket"),
        (f"redis://u:{SECRET}@host?ssl_ca_certs=/nope", "ssl_ca_certs: only with TLS; write rediss://"),
        (f"redis://host?pasword={SECRET}", "unknown option 'pasword'; there are client_name, db,"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_url(url)
    assert why in caught.value.message
    assert SECRET not in caught.value.message


async def test_no_message_shows_a_password() -> None:
    async with linked(f"redis://anna:{SECRET}@127.0.0.1:{free_port()}/0") as link:
        for call in (link.execute("GET", "x"), link.check()):
            with pytest.raises(DependencyError, match="cannot be reached") as caught:
                await call
            assert _seen(caught.value).count(SECRET) == 0
        assert SECRET not in link.shown


async def test_a_user_of_an_acl_and_one_that_is_refused() -> None:
    with Server(valkey(), free_port()) as server:
        server.ask("ACL", "SETUSER", "anna", "on", f">{SECRET}", "~*", "&*", "+@all")
        async with linked(f"redis://anna:{SECRET}@127.0.0.1:{server.port}") as link:
            assert await link.execute("SET", "x", "1") is not None
            assert (await link.check()).startswith("Valkey ")
        async with linked(f"redis://anna:{SECRET}!@127.0.0.1:{server.port}") as link:
            with pytest.raises(SetupError, match="refuses the user or the password") as caught:
                await link.check()
            assert SECRET not in _seen(caught.value)
            with pytest.raises(DependencyError, match="refuses the user or the password"):
                await link.execute("GET", "x")
        server.ask("ACL", "SETUSER", "anna", "-set")
        async with linked(f"redis://anna:{SECRET}@127.0.0.1:{server.port}") as link:
            with pytest.raises(DependencyError, match="ACL"):
                await link.execute("SET", "x", "1")


async def test_whom_sentinel_names_is_asked(tmp_path: Path) -> None:
    with Server(valkey(), free_port()) as primary:
        port, config = free_port(), tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\ndir {tmp_path}\nsentinel monitor jobs 127.0.0.1 {primary.port} 1\n")
        with subprocess.Popen([valkey(), str(config), "--sentinel"], stdout=subprocess.DEVNULL) as sentinel:
            try:
                async with linked(f"redis+sentinel://127.0.0.1:{port}/jobs") as link, asyncio.timeout(20):
                    while True:
                        with contextlib.suppress(DependencyError):
                            await link.execute("SET", "x", "1")
                            break
                        await asyncio.sleep(0.05)
                    assert primary.ask("GET", "x") in ("1", b"1")
                    assert (await link.check()).startswith("Valkey ")
                async with linked(f"redis+sentinel://127.0.0.1:{port}/other") as link:
                    with pytest.raises(DependencyError, match="cannot be reached"):
                        await link.execute("GET", "x")
            finally:
                sentinel.kill()


async def test_tls_is_spoken_and_an_unknown_certificate_refused(tmp_path: Path) -> None:
    binary, openssl = redis_server(), shutil.which("openssl")
    if binary is None or openssl is None:
        pytest.skip("there is no redis-server, or no openssl, on this machine")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, *words.split(), *extension], check=True, capture_output=True)
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(certificate)}
    with Server(binary, 0, tls_port=str(port), tls_auth_clients="no", **files):
        url = f"rediss://127.0.0.1:{port}"
        async with linked(f"{url}?ssl_ca_certs={certificate}") as link:
            assert (await link.check()).startswith("Redis ")
        async with linked(url) as link:
            said = "TLS fails .*certificate verify failed.*: ssl_ca_certs=PATH"
            with pytest.raises(DependencyError, match=said):
                await link.execute("GET", "x")
            with pytest.raises(SetupError, match=said):
                await link.check()


@pytest.mark.parametrize(
    ("told", "found"),
    [("redis_version:6.2.14", "Redis 6.2.14"), ("redis_version:7.2.4\r\nvalkey_version:7.0.9", "Valkey 7.0.9")],
)
async def test_an_old_server_is_refused(told: str, found: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            text = told.encode() if words[0] == b"INFO" else b"OK"
            writer.write(b"$%d\r\n%s\r\n" % (len(text), text))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with linked(f"redis://127.0.0.1:{port}") as link:
            with pytest.raises(SetupError, match=rf"is {found}; Forebay needs Redis or Valkey from 7\.2"):
                await link.check()


def _seen(error: ForebayError) -> str:
    """All that a log with a traceback would show of an error."""
    texts: list[str] = []
    chained: BaseException | None = error
    while chained is not None:
        texts.append(f"{chained!r} {chained}")
        chained = chained.__cause__ or chained.__context__
    return "\n".join(texts)


async def test_whoever_is_canceled_while_asking_ends() -> None:
    """At whatever moment: a task that goes on asking would keep a server from ending."""
    with Server(valkey()) as server:
        async with linked(server.url) as link:
            await link.execute("PING")

            async def asks() -> None:
                while True:
                    await link.execute("PING")

            for steps in range(400):
                asking = asyncio.ensure_future(asks())
                for _ in range(steps % 40):
                    await asyncio.sleep(0)
                asking.cancel()
                done, _ = await asyncio.wait([asking], timeout=5.0)
                assert done, f"it goes on, canceled after {steps % 40} steps"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_a_call_forgets_is_not_forgotten(fails: bool) -> None:
    async def forgets() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        if fails:
            raise ConnectionError
        return 1

    asking = asyncio.ensure_future(unless_canceled(forgets()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
