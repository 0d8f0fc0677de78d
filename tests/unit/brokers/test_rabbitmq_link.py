"""The connection to a RabbitMQ, where what answers is none, or none can be made."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.brokers.rabbitmq import RabbitMq
from forebay.brokers.rabbitmq_link import RabbitLink
from forebay.brokers.rabbitmq_url import parse_url
from forebay.core.errors import DependencyError, SetupError

PATIENCE_S = 20.0
START = bytes.fromhex("0100000000001c000a000a00090000000000000005504c41494e00000005656e5f5553ce")
"""How a broker begins; that it is well formed is of no weight here."""


@contextlib.asynccontextmanager
async def speaking(words: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that says this to whoever comes, and ends; its port."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def is_refused_and_tried_again(url: str, said: str) -> None:
    broker = RabbitMq(url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(3):
                with pytest.raises(DependencyError, match=said) as caught:
                    await broker.publish(())
                assert caught.value.code == "broker_unavailable"
                await asyncio.sleep(0.2)
        assert broker._link._keeping is not None
        assert not broker._link._keeping.done()
    finally:
        await broker.close()


async def test_while_certificates_cannot_be_read_the_connection_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "half.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    for name in ("none.pem", "half.pem"):
        url = f"amqps://127.0.0.1:1/?cafile={tmp_path / name}"
        await is_refused_and_tried_again(url, "its certificates cannot be used")
        broker = RabbitMq(url)
        with pytest.raises(SetupError, match="its certificates cannot be used"):
            await broker.check()
        await broker.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_certificate_that_nobody_trusts_ends_the_start_with_what_to_name(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with speaking(b"", context) as port:
        said = r"TLS fails \(.*certificate verify failed.*\); name the certificate of .*: cafile=PATH"
        await is_refused_and_tried_again(f"amqps://127.0.0.1:{port}/", said)
        await ends_the_start(f"amqps://127.0.0.1:{port}/", said)


async def test_a_port_that_does_not_speak_tls_ends_the_start() -> None:
    async with speaking(b"AMQP\x00\x00\x09\x01") as port:
        said = r"TLS fails \(.*\); this port does not speak TLS: name the one that does \(5671\), or write amqp://"
        await ends_the_start(f"amqps://127.0.0.1:{port}/", said)


async def test_what_ends_while_tls_is_begun_may_pass() -> None:
    async with speaking(b"") as port:
        broker = RabbitMq(f"amqps://127.0.0.1:{port}/")
        with pytest.raises(DependencyError, match="cannot be reached, or the connection broke"):
            await broker.check()
        await broker.close()


async def ends_the_start(url: str, said: str) -> None:
    broker = RabbitMq(url)
    with pytest.raises(SetupError, match=said):
        await broker.check()
    await broker.close()


@pytest.mark.parametrize(
    "words", [b"", b"AMQP", b"AMQP\x00\x00\x09\x01", START[:3], START[:20], START, b"nonsense" * 9]
)
async def test_what_ends_in_the_handshake_is_tried_again(words: bytes) -> None:
    async with speaking(words) as port:
        await is_refused_and_tried_again(f"amqp://127.0.0.1:{port}/", "RabbitMQ at amqp://127.0.0.1")


async def test_a_connection_that_ends_between_two_frames_is_said_to_have_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ends(**options: object) -> None:
        raise StopAsyncIteration

    monkeypatch.setattr("aio_pika.connect", ends)
    await is_refused_and_tried_again("amqp://127.0.0.1:1/", "cannot be reached, or the connection broke")


async def test_a_keeper_that_died_is_replaced() -> None:
    async with speaking(b"") as port:
        broker = RabbitMq(f"amqp://127.0.0.1:{port}/")
        with pytest.raises(DependencyError):
            await broker.publish(())
        keeping = broker._link._keeping
        assert keeping is not None
        keeping.cancel()
        await asyncio.wait([keeping])
        with pytest.raises(DependencyError):
            await broker.publish(())
        assert broker._link._keeping is not keeping
        await broker.close()


async def test_an_error_that_is_told_again_and_again_keeps_no_frames_of_earlier_times() -> None:
    link = RabbitLink(parse_url("amqp://127.0.0.1:1/"), lambda session: None)
    frames: list[int] = []
    for _ in range(20):
        with pytest.raises(DependencyError) as caught:
            await link.session()
        assert caught.value.code == "broker_unavailable"
        frames.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert frames[-1] <= frames[0]
    await link.close()
