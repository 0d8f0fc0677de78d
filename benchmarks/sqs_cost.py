"""What a million jobs cost on SQS, packed and not: `python benchmarks/sqs_cost.py`.

Jobs are really published, leased and acked through `moto`, which speaks as SQS does; the client counts its calls, and
what AWS would bill for them. `--endpoint http://HOST:PORT` or `--endpoint aws` does it elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.sqs_prices import Cost, of_a_million, of_a_month_idle
from moto.server import ThreadedMotoServer

from forebay.brokers.port import PRIORITY_LEVELS, Message
from forebay.brokers.sqs import PACK_JOBS, Sqs

LEASE_S: Final = 60.0
MODEL: Final = "m"


class Case(NamedTuple):
    """Jobs of `nbytes` each, so many in each call of `publish` and of `lease`, and in a message."""

    words: str
    nbytes: int
    at_once: int
    pack_jobs: int
    jobs: int


CASES: Final = (
    Case("small, one by one", 400, 1, 1, 200),
    Case("small, 64 at once, not packed", 400, 64, 1, 640),
    Case("small, 64 at once, packed", 400, 64, PACK_JOBS, 1920),
    Case("small, 500 at once, packed", 400, 500, PACK_JOBS, 3000),
    Case("16 KiB, 64 at once, not packed", 16 << 10, 64, 1, 320),
    Case("16 KiB, 64 at once, packed", 16 << 10, 64, PACK_JOBS, 640),
)


async def cost_of(case: Case, url: str) -> Cost:
    """Of the calls that the jobs really took, from a backlog that is worked off."""
    async with contextlib.AsyncExitStack() as stack:
        broker = Sqs(url, pack_jobs=case.pack_jobs)
        stack.push_async_callback(broker.close)
        await broker.depth(MODEL)  # its queues are there then
        broker.link.calls.clear()
        broker.link.billed.clear()
        messages = [Message(f"{number:036}", MODEL, secrets.token_bytes(case.nbytes)) for number in range(case.jobs)]
        for begin in range(0, case.jobs, case.at_once):
            if not all(await broker.publish(messages[begin : begin + case.at_once])):
                raise SystemExit("not all were confirmed")
        left = case.jobs
        while left:
            deliveries = await broker.lease([MODEL], min(left, case.at_once), 0.0, LEASE_S)
            await broker.ack(deliveries)
            left -= len(deliveries)
        return of_a_million(broker.link.calls, broker.link.billed, case.jobs)


@contextlib.contextmanager
def server(endpoint: str) -> Iterator[str]:
    """The options of a URL of an SQS that does not mind."""
    if endpoint:
        yield "" if endpoint == "aws" else f"&endpoint={endpoint}"
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "testing")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    try:
        host, port = started.get_host_and_port()
        yield f"&endpoint=http://{host}:{port}"
    finally:
        started.stop()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="", help="of an SQS that runs already; `aws`: AWS itself")
    parser.add_argument("--region", default="us-east-1")
    chosen = parser.parse_args()
    print("| a million jobs | calls | billed requests | dollars |\n|---|--:|--:|--:|")
    with server(chosen.endpoint) as options:
        for case in CASES:
            url = f"sqs://{chosen.region}/cost-{secrets.token_hex(4)}?poll=1{options}"
            cost = asyncio.run(cost_of(case, url))
            print(f"| {case.words} | {cost.calls:,.0f} | {cost.requests:,.0f} | {cost.dollars:.3f} |")
    print("\n| a month of one idle worker and model | calls | dollars |\n|---|--:|--:|")
    for poll_s in (5, 20):
        idle = of_a_month_idle(PRIORITY_LEVELS, poll_s)
        print(f"| poll={poll_s} | {idle.calls:,.0f} | {idle.dollars:.2f} |")


if __name__ == "__main__":
    main()
