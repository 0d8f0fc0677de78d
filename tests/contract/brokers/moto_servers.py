"""A server that speaks as SQS does: `moto`, which tests start for themselves on a port of its own, or another that
`FOREBAY_TEST_SQS` names."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

VARIABLE = "FOREBAY_TEST_SQS"
"""An endpoint, or `aws` for AWS itself; credentials and region are found as AWS tools find them."""
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
_START_S = 60.0
_PASS = "/forebay-test/pass?"
PROGRAM = f"""
import sys
import moto.server, moto.sqs.models as models

passed_s = [0.0]
unix_time, unix_time_millis = models.unix_time, models.unix_time_millis
models.unix_time = lambda *given: unix_time(*given) + passed_s[0]
models.unix_time_millis = lambda *given: unix_time_millis(*given) + 1000 * passed_s[0]


def apart(call):
    def alone(self, *given):
        with self._messages_lock:
            return call(self, *given)

    return alone


models.Queue.delete_message = apart(models.Queue.delete_message)
models.SQSBackend.is_message_valid_based_on_retention_period = lambda *given: True


class Moved(moto.server.DomainDispatcherApplication):
    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "{_PASS[:-1]}":
            passed_s[0] += float(environ["QUERY_STRING"])
            start_response("200 OK", [("Content-Length", "0")])
            return []
        return super().__call__(environ, start_response)


moto.server.DomainDispatcherApplication = Moved
moto.server.main(sys.argv[1:])
"""
"""The server, whose clock a request moves on. Two deletes at once would bring back each other's messages, and lose one
that is sent meanwhile; and before it gives out a message it would count all others, nine times."""


class MotoServer:
    """One on a free port."""

    def __init__(self, **environ: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fbmoto"))
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MotoServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers. It has nothing of what was there before. Its clients need credentials,
        whatever they are."""
        for name, value in CREDENTIALS.items():
            os.environ.setdefault(name, value)
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", PROGRAM, "-p", str(self.port)],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        until = time.monotonic() + _START_S
        while not self._answers():
            told = (self.folder / "out").read_text(errors="replace")
            assert self._process.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.05)

    def pass_s(self, seconds: float) -> None:
        """Move its clock on."""
        self.ask(f"{_PASS}{seconds}")

    def ask(self, path: str, data: bytes | None = None) -> None:
        """A request to the server itself."""
        asked = urllib.request.Request(f"{self.endpoint}{path}", data, {"Content-Type": "text/plain"})
        with urllib.request.urlopen(asked, timeout=10):
            pass

    def send(self, number: signal.Signals) -> None:
        """A signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            self.pass_s(0)
        except OSError:
            return False
        return True


class _Shared:
    """The one that many tests share, each with queues of its own."""

    server: MotoServer | None = None


def shared_server() -> MotoServer | None:
    """Started when it is first asked for, and ended with this process. None: another was named."""
    if VARIABLE in os.environ:
        return None
    if _Shared.server is None:
        _Shared.server = MotoServer()
        atexit.register(_Shared.server.__exit__, None, None, None)
        _Shared.server.start()
    return _Shared.server


def sqs_url(prefix: str, server: MotoServer | None = None, **options: str) -> str:
    """A URL of an SQS that tests may use."""
    server = server or shared_server()
    endpoint = os.environ[VARIABLE] if server is None else server.endpoint
    given = {"poll": "1", **({} if endpoint == "aws" else {"endpoint": endpoint}), **options}
    region = os.environ.get("AWS_REGION", "") if server is None else REGION
    return f"sqs://{region}/{prefix}?" + "&".join(f"{name}={value}" for name, value in given.items())
