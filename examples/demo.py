"""`make demo`: serve two real models, send real requests, show the answers, how they were batched, and the speed.

    python examples/demo.py [--once]

It starts `forebay serve` as a process of its own with MiniLM (sentence embeddings) and Magika (file types), as anybody
would. With `--once` (or ONCE=1 in the environment) it ends by itself: exit code 0 if every answer was right.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / ".forebay" / "demo.log"
HOST = "127.0.0.1"
CONNECTIONS = 16
READY_WITHIN_S = 180.0
LARGEST_FILE_BYTES = 16 << 20
MODELS = ("examples/minilm/minilm.py:MiniLM", "examples/magika_types.py:FileType")

SENTENCES = (
    "The cat curled up on the warm windowsill.",
    "Central banks raised interest rates again this month.",
    "Knead the dough for ten minutes, then let it rest.",
    "The goalkeeper saved a penalty in the final minute.",
    "Heavy rain flooded the lower part of the valley.",
    "The telescope found water vapour on a distant planet.",
    "My parcel was due on Monday and is still not here.",
    "The server answers each request before its deadline.",
)
QUESTIONS = (
    ("Where is my delivery?", 6),
    ("a kitten asleep in the sun", 0),
    ("How do I bake bread?", 2),
    ("news about inflation and loans", 1),
)
"""A text and the sentence above that is nearest to it by meaning. Hardly a word is shared."""

T = TypeVar("T")
R = TypeVar("R")


class DemoError(Exception):
    """Something is not as it must be; the message says what."""


class Reply(NamedTuple):
    """One answer: outputs by name, the server's explanation of the batch, and the time that the client saw."""

    outputs: dict[str, list[Any]]
    explained: dict[str, Any]
    taken_ms: float


class Client:
    """Talks to the server over one kept-open connection a thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()

    def ask(self, model: str, name: str, value: bytes) -> Reply:
        """One row with one BYTES input, in binary form: that carries any file. Raises `DemoError` if refused."""
        payload = struct.pack("<I", len(value)) + value
        tensor = {"name": name, "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(payload)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"explain": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        started = time.perf_counter()
        status, body = self._send("POST", f"/v2/models/{model}/infer", head + payload, headers)
        taken_ms = (time.perf_counter() - started) * 1000
        if status != 200:
            raise DemoError(f"{model} answered {status}: {body.decode(errors='replace')[:300]}")
        document = json.loads(body)
        outputs = {tensor["name"]: tensor["data"] for tensor in document["outputs"]}
        return Reply(outputs, document.get("parameters", {}), taken_ms)

    def ready(self) -> bool:
        """Whether the server and all its models are ready."""
        try:
            return self._send("GET", "/v2/health/ready", None, {})[0] == 200
        except OSError:
            return False

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._local.connection = None
            raise error if isinstance(error, OSError) else ConnectionError(str(error)) from error


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` on all items from as many threads as there are connections; the results in order."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(work, items))


def free_port() -> int:
    """8000 if nobody has it, else any free port."""
    for port in (8000, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free port on the loopback interface")


@contextmanager
def served(port: int, console: Console) -> Iterator[subprocess.Popen[bytes]]:
    """`forebay serve` with both models, ready for requests; stopped at the end. Raises `DemoError` where it fails."""
    command = [str(Path(sys.executable).with_name("forebay")), "serve", *MODELS, "--host", HOST, "--port", str(port)]
    console.print(f"[dim]$ {' '.join(['forebay', *command[1:]])}[/dim]", soft_wrap=True, highlight=False)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    # Its own session: Ctrl-C reaches this process only, which then lets the server drain.
    with LOG.open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_ready(server, Client(port), console)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], client: Client, console: Console) -> None:
    """Polls the health endpoint. Raises `DemoError` with the end of the server's log where it does not come up."""
    started = time.monotonic()
    with console.status("Starting the server") as status:
        while not client.ready():
            waited_s = time.monotonic() - started
            if server.poll() is not None or waited_s > READY_WITHIN_S:
                state = f"ended with code {server.returncode}" if server.poll() is not None else "did not become ready"
                end = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
                raise DemoError(f"the server {state}; the end of {LOG}:\n{end}")
            status.update(f"Starting the server: loading and measuring both models, {waited_s:.0f} s")
            time.sleep(0.1)
    console.print(f"Ready after {time.monotonic() - started:.1f} s. Its log: {LOG}\n", highlight=False, soft_wrap=True)


def show_nearest(client: Client, console: Console) -> None:
    """Embeds all texts at once and finds the nearest sentence of each question. Raises `DemoError` if it is another."""
    texts = [*SENTENCES, *(question for question, _ in QUESTIONS)]
    replies = at_once(lambda text: client.ask("minilm", "text", text.encode()), texts)
    vectors = [reply.outputs["embedding"] for reply in replies]
    table = Table("question", "nearest sentence", "cosine", title="MiniLM: nearest by meaning", title_justify="left")
    for (question, expected), vector in zip(QUESTIONS, vectors[len(SENTENCES) :], strict=True):
        cosines = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in vectors[: len(SENTENCES)]]
        best = max(range(len(cosines)), key=cosines.__getitem__)
        if best != expected:
            raise DemoError(f"{SENTENCES[best]!r} came out nearest to {question!r}")
        table.add_row(question, SENTENCES[best], f"{cosines[best]:.2f}")
    console.print(table)
    show_batches("these 12 texts, sent at once,", replies, console)


def real_files() -> dict[str, tuple[Path, str]]:
    """Files that every machine with this demo has: shown name to the path and the label it must get."""
    libraries = Path(json.__file__).parent
    compiled = sorted((libraries / "__pycache__").glob("decoder.*.pyc"))
    found = {
        "README.md": (ROOT / "README.md", "markdown"),
        "pyproject.toml": (ROOT / "pyproject.toml", "toml"),
        "examples/demo.py": (Path(__file__), "python"),
        "json/decoder.py": (libraries / "decoder.py", "python"),
        "LICENSE": (ROOT / "LICENSE", "txt"),
        "Makefile": (ROOT / "Makefile", "makefile"),
        "tokenizer.json": (ROOT / ".forebay" / "models" / "minilm" / "tokenizer.json", "json"),
    }
    if compiled:
        found[f"json/__pycache__/{compiled[0].name}"] = (compiled[0], "pythonbytecode")
    if sys.platform == "linux":
        found[f"bin/{Path(sys.executable).name}"] = (Path(sys.executable).resolve(), "elf")
    return {name: entry for name, entry in found.items() if entry[0].is_file()}


def show_file_types(client: Client, console: Console) -> None:
    """Sends real files at once and shows their types. Raises `DemoError` for a wrong one."""
    files = real_files()
    contents = [path.read_bytes()[:LARGEST_FILE_BYTES] for path, _ in files.values()]
    replies = at_once(lambda content: client.ask("filetype", "content", content), contents)
    table = Table("file", "bytes", "type", "score", title="Magika: what kind of file is it", title_justify="left")
    for (name, (_, expected)), content, reply in zip(files.items(), contents, replies, strict=True):
        label, score = reply.outputs["label"][0], reply.outputs["score"][0]
        if label != expected:
            raise DemoError(f"{name} came out as {label!r} with score {score:.2f}, it is {expected!r}")
        table.add_row(name, f"{len(content):,}", label, f"{score:.2f}")
    console.print(table)
    show_batches(f"these {len(files)} files, sent at once,", replies, console)


def show_batches(what: str, replies: Sequence[Reply], console: Console) -> None:
    """One line: how the server grouped these requests, from what it tells with each answer."""
    rows = Counter(int(reply.explained["batch_rows"]) for reply in replies)
    sizes = ", ".join(
        f"{count} in batches of {size}" if size > 1 else f"{count} alone" for size, count in sorted(rows.items())
    )
    counted = Counter(str(reply.explained["dispatch_reason"]) for reply in replies)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counted.most_common())
    waited_ms = sum(float(reply.explained["queue_ms"]) for reply in replies) / len(replies)
    waste = sum(float(reply.explained["padding_waste"]) for reply in replies) / len(replies)
    console.print(f"How {what} ran: {sizes}.", highlight=False)
    console.print(f"Why no larger: {reasons}; mean wait {waited_ms:.1f} ms; padding {waste:.0%}.\n", highlight=False)


def mixed_texts(count: int) -> list[bytes]:
    """Texts of 5 to 200 words, mostly short, all different."""
    words = " ".join(SENTENCES).lower().replace(".", "").split()
    lengths = [5, 8, 12, 16, 20, 26, 34, 45, 70, 200]
    return [
        " ".join(
            [str(i), *(words[(i * 7 + j * j) % len(words)] for j in range(lengths[i % len(lengths)] - 1))]
        ).encode()
        for i in range(count)
    ]


def show_speed(client: Client, console: Console) -> None:
    """MiniLM on texts of mixed length: one client alone, then many at once. Raises `DemoError` for a wrong answer."""
    texts = mixed_texts(300)

    def ask(text: bytes) -> Reply:
        reply = client.ask("minilm", "text", text)
        length = sum(x * x for x in reply.outputs["embedding"])
        if len(reply.outputs["embedding"]) != 384 or abs(length - 1) > 1e-3:
            raise DemoError("an embedding does not have 384 numbers and length 1")
        return reply

    table = Table("clients", "answers", "answers/s", "median ms", "slowest ms", title_justify="left")
    table.title = "MiniLM: texts of 5 to 200 words"
    with console.status("Measuring: one client alone"):
        started = time.perf_counter()
        alone = [ask(text) for text in texts[:50]]
        table.add_row("1", *speed(alone, time.perf_counter() - started))
    with console.status(f"Measuring: {CONNECTIONS} clients at once"):
        started = time.perf_counter()
        together = at_once(ask, texts)
        table.add_row(str(CONNECTIONS), *speed(together, time.perf_counter() - started))
    console.print(table)
    show_batches(f"the {len(together)} texts of {CONNECTIONS} clients", together, console)
    console.print(
        f"This machine has {os.cpu_count()} cores, and this script ran on them too. On a CPU a batch of long texts "
        "costs as much as its rows alone, so the server lets rows share a batch only where it has measured that "
        "sharing is cheaper. No batch size was set.\n",
        highlight=False,
    )


def speed(replies: Sequence[Reply], seconds: float) -> tuple[str, str, str, str]:
    """Cells of the speed table: answers, answers a second, median and slowest time in ms."""
    taken_ms = sorted(reply.taken_ms for reply in replies)
    middle = taken_ms[len(taken_ms) // 2]
    return str(len(replies)), f"{len(replies) / seconds:.0f}", f"{middle:.1f}", f"{taken_ms[-1]:.0f}"


def commands(port: int) -> list[str]:
    """Shell lines to try next; each works as printed while the server is up."""
    base = f"http://{HOST}:{port}"
    infer = f"{base}/v2/models/minilm/infer"
    tensor = '{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["two rows", "in one request"]}'
    file = """'{"input": {"content": "import os\\nprint(os.getcwd())\\n"}}'"""
    return [
        f"""curl -s {infer} -d '{{"input": {{"text": "Where is my delivery?"}}}}'""",
        f"""curl -s {infer} -d '{{"inputs": [{tensor}], "parameters": {{"explain": true}}}}'""",
        f"curl -s {base}/v2/models/filetype/infer -d {file}",
        f"curl -s {base}/v2/models/minilm",
        f"curl -s {base}/metrics",
    ]


def show_next_steps(port: int, console: Console) -> None:
    """What to try while the server is up."""
    console.print("[bold]Try next[/bold]")
    for line in commands(port):
        # Plain text, never wrapped or coloured: the line is there to be copied.
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  The interface in a browser: http://{HOST}:{port}/docs", highlight=False)
    console.print("  Your own model: forebay serve model.onnx, or forebay serve module.py:Class\n", highlight=False)


def run(console: Console, once: bool) -> None:
    """The whole demo. Raises `DemoError` where anything is wrong."""
    if subprocess.run([sys.executable, "examples/minilm/build.py"], cwd=ROOT, check=False).returncode:
        raise DemoError("MiniLM could not be built; see above")
    port = free_port()
    with served(port, console) as server:
        client = Client(port)
        show_nearest(client, console)
        show_file_types(client, console)
        show_speed(client, console)
        show_next_steps(port, console)
        if once:
            return
        console.print("The server stays up. Ctrl-C ends it.")
        try:
            code = server.wait()
        except KeyboardInterrupt:
            console.print("Stopping the server.")
            return
        raise DemoError(f"the server ended by itself with code {code}; see {LOG}")


def main() -> None:
    """Command line. Ctrl-C or SIGTERM after the tour ends the demo and its server with exit code 0; before it, 130."""
    parser = argparse.ArgumentParser(description="Serve two real models and show what the server does.")
    parser.add_argument("--once", action="store_true", help="End after the tour instead of staying up (also ONCE=1).")
    once = parser.parse_args().once or os.environ.get("ONCE", "0") not in ("", "0")
    # Tables need 100 columns to read well; a pipe has none to tell.
    width = max(100, shutil.get_terminal_size((110, 24)).columns)
    console = Console(width=width)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        run(console, once)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (DemoError, OSError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
