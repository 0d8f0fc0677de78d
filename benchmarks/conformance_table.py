"""The table of docs/conformance.md from reports of `forebay conformance --json`, one a server.

python benchmarks/conformance_table.py Forebay=ours.json MLServer=mlserver.json KServe=kserve.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

MARKS = {"pass": "yes", "FAIL": "**no**", "observed": "", "skipped": "–", "not announced": "n/a"}


def main(arguments: list[str]) -> None:
    """Prints totals by area, then one line a check."""
    reports: dict[str, list[dict[str, Any]]] = {}
    for argument in arguments:
        server, _, path = argument.partition("=")
        reports[server] = msgspec.json.decode(Path(path).read_bytes())["results"]
    servers = list(reports)
    first = reports[servers[0]]
    print("| area | " + " | ".join(servers) + " |\n|---|" + "---|" * len(servers))
    for area in (*dict.fromkeys(one["area"] for one in first), "all"):
        cells = []
        for server in servers:
            verdicts = [one["verdict"] for one in reports[server] if area in (one["area"], "all")]
            judged = verdicts.count("pass") + verdicts.count("FAIL")
            cells.append(f"{verdicts.count('pass')} of {judged}" if judged else "not announced")
        print(f"| {area} | " + " | ".join(cells) + " |")
    print("\n| check | what | level | " + " | ".join(servers) + " |\n|---|---|---|" + "---|" * len(servers))
    for place, one in enumerate(first):
        if one["level"] != "observe":
            level = one["level"] + ("*" if one["extension"] else "")
            marks = [MARKS[reports[server][place]["verdict"]] for server in servers]
            print(f"| `{one['id']}` | {one['title']} | {level} | " + " | ".join(marks) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
