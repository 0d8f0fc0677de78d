from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.api.webhook_receiver import Receiver

from forebay.api.webhook_secrets import WebhookSecrets, new_secret
from forebay.api.webhook_send import NotSent, Reply, place_of, post
from forebay.core.errors import SetupError

TLS = ssl.create_default_context()


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await eventually(lambda: not found.open)
    await server.wait_closed()


async def test_addresses_that_are_not_public_are_refused_when_the_name_is_looked_up(receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"):
        with pytest.raises(NotSent, match="no public address"):
            await post(place_of(f"http://{host}:{receiver.port}/"), {}, b"", timeout_s=5.0, private=False, tls=TLS)
    assert receiver.calls == []


async def test_a_name_is_looked_up_once_and_that_address_called(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    asked: list[object] = []
    real = loop.getaddrinfo

    async def look_up(host: Any, port: Any, **options: Any) -> Any:
        asked.append(host)
        return await real("127.0.0.1" if host == "hook.example" else host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    place = place_of(f"http://hook.example:{receiver.port}/a")
    assert await post(place, {}, b"{}", timeout_s=5.0, private=True, tls=TLS) == Reply(204)
    assert asked.count("hook.example") == 1
    assert receiver.calls[0][0]["host"] == f"hook.example:{receiver.port}"


async def test_an_address_that_does_not_answer_leaves_the_others(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def look_up(host: Any, port: Any, **options: Any) -> Any:
        if host != "hook.example":
            return await real(host, port, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in ("127.0.0.2", "127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    place = place_of(f"http://hook.example:{receiver.port}/a")
    assert await post(place, {}, b"{}", timeout_s=5.0, private=True, tls=TLS) == Reply(204)


async def test_what_cannot_be_reached_says_why(receiver: Receiver) -> None:
    async def reason(url: str) -> str:
        with pytest.raises(NotSent) as failure:
            await post(place_of(url), {}, b"", timeout_s=5.0, private=True, tls=TLS)
        return str(failure.value)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "refused" in (await reason(f"http://127.0.0.1:{unused.getsockname()[1]}")).lower()
    assert "name is not known" in await reason("http://nothing.invalid/")

    def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    assert "TLS" in await reason(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http://", "http://u:p@a/", "http://a:x/", "http://a/\r\nx: y", "http://a/ b", "http://[a/"]
)
def test_a_url_that_cannot_be_called_is_not(url: str) -> None:
    with pytest.raises(NotSent, match="URL"):
        place_of(url)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_https_needs_a_certificate_of_that_name_that_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]

    async def call(host: str, tls: ssl.SSLContext) -> Reply:
        return await post(place_of(f"https://{host}:{port}/"), {}, b"{}", timeout_s=20.0, private=True, tls=tls)

    assert await call("localhost", trusting) == Reply(204)
    for host, tls in (("127.0.0.1", trusting), ("localhost", TLS)):
        with pytest.raises(NotSent, match="TLS: CERTIFICATE_VERIFY_FAILED"):
            await call(host, tls)
    assert len(found.calls) == 1
    server.close()
    await eventually(lambda: not found.open)


def test_the_signature_is_that_of_the_published_example() -> None:
    # https://docs.svix.com/receiving/verifying-payloads/how-manual
    secrets = WebhookSecrets.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "example")
    signature = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_several_secrets_all_sign() -> None:
    one, two = new_secret(), new_secret()
    both = WebhookSecrets.parse(f"# old\n{one}\n\n{two}\n", "secrets").sign("a", 1, b"b")
    assert both.split(" ") == [WebhookSecrets.parse(line, "secrets").sign("a", 1, b"b") for line in (one, two)]


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    one, two = new_secret(), new_secret()
    file = tmp_path / "secrets"
    file.write_text(one)
    assert len(WebhookSecrets.load(None, None)) == 0
    assert len(WebhookSecrets.load(None, file)) == 1
    assert len(WebhookSecrets.load(f"{one},{two}", file)) == 2


@pytest.mark.parametrize("text", ["", "# nothing", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_abcd", "whsec_!!!!"])
def test_a_secret_that_is_none_is_named_by_its_line_and_never_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(text)
    with pytest.raises(SetupError, match=str(file)) as refusal:
        WebhookSecrets.load(None, file)
    assert not text.strip("# ") or text not in str(refusal.value)
    with pytest.raises(SetupError, match="cannot be read"):
        WebhookSecrets.load(None, tmp_path / "none")
