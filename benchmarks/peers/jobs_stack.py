"""What a queue of jobs takes beside Forebay: Redis, workers and a web server, started together and ended together.

python -m benchmarks.peers.jobs_stack celery|arq WEB_PORT
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from benchmarks.peers.model_file import setting

WORKERS = {
    "celery": ["-m", "celery", "-A", "benchmarks.peers.jobs_celery:celery", "worker", "--loglevel", "WARNING"],
    "arq": ["-m", "arq", "benchmarks.peers.jobs_arq.WorkerSettings"],
}
UVICORN = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]


def main() -> None:
    kind, port = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="forebay-bench-redis-") as folder:
        try:
            started.append(subprocess.Popen(redis_command(Path(folder))))
            _wait_for(int(setting("REDIS_PORT")))
            for _ in range(int(setting("WORKERS", "1"))):
                started.append(subprocess.Popen([sys.executable, *WORKERS[kind], *setting("FLAGS").split()]))
            web = f"benchmarks.peers.jobs_{kind}:web"
            started.append(subprocess.Popen([sys.executable, "-m", "uvicorn", web, "--port", port, *UVICORN]))
            while all(process.poll() is None for process in started):
                time.sleep(0.1)
        finally:
            for process in reversed(started):
                process.terminate()
                try:
                    process.wait(3)
                except subprocess.TimeoutExpired:
                    process.kill()


def redis_command(folder: Path) -> list[str]:
    """Redis as it is run where jobs matter: every change is appended to a file, which is synced every second."""
    options = {"port": setting("REDIS_PORT"), "dir": str(folder), "save": "", "appendonly": "yes"}
    durable = {**options, "appendfsync": "everysec", "loglevel": "warning"}
    return [setting("REDIS", "redis-server"), *(word for name, text in durable.items() for word in (f"--{name}", text))]


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("Redis does not answer")


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
