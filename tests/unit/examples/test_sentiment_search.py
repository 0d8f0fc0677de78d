"""The one command of the torch how-to: it runs the search that the page shows, and tells what was found."""

from __future__ import annotations

import shlex

import msgspec
import pytest
from examples.sentiment import optimize
from tests.unit.optimize.pages import ROOT, commands
from tests.unit.optimize.test_gate import ORIGINAL, measured
from tests.unit.optimize.test_report import report

from forebay.optimize.report import CandidateReport


def test_the_search_is_that_of_the_page() -> None:
    (shown,) = [line for line in commands("optimize-torch") if line.startswith("forebay optimize")]
    words = [word.removeprefix(f"{ROOT}/") for word in optimize.command()]
    assert words[1:] == shlex.split(shown)[1:]
    scripts = [line.removeprefix("python ") for line in commands("optimize-torch") if line.startswith("python ")]
    assert [script for _, script in optimize.STEPS] == scripts
    assert optimize.command("--rounds", "1")[-2:] == ["--rounds", "1"]


def test_the_table_has_what_was_measured_and_names_what_was_not_built() -> None:
    slow = measured("openvino")
    slow.reason = "slower"
    nothing = CandidateReport(
        name="weights-int8",
        meaning="",
        runtime="onnx",
        reason="not_applicable",
        detail="no MatMul has constant weights",
    )
    found = msgspec.structs.replace(report(), candidates=[*report().candidates, slow, nothing], original=ORIGINAL)
    assert list(optimize.table(found)) == [
        "| recipe | speed-up | accuracy | alone or in a batch | |",
        "|---|--:|--:|--:|---|",
        "| `static-int8` | **2.00** | 90.00 % | 1e-07 | passed |",
        "| `broken` |  |  |  | crashed |",
        "| `openvino` | 2.00 | 90.00 % | 1e-07 | slower |",
        "",
        "Not built: `weights-int8` (no MatMul has constant weights).",
        "The original: 91.00 % of 10 held-out messages. 12 s on 2 cores of a cpu.",
    ]


def test_what_is_there_is_not_made_again_and_the_search_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []

    class Ended:
        returncode = 2

    def run(words: list[str], **_: object) -> Ended:
        ran.append(words)
        return Ended()

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("sys.argv", ["optimize.py", "--rounds", "1"])
    monkeypatch.setattr(optimize, "STEPS", ((ROOT / "pyproject.toml", "one.py"), (ROOT / "gone", "other.py")))
    with pytest.raises(SystemExit) as ended:
        optimize.main()
    assert (ended.value.code, [words[-1] for words in ran]) == (2, ["other.py"])
    monkeypatch.setattr(optimize, "STEPS", ())
    with pytest.raises(SystemExit) as ended:
        optimize.main()
    assert (ended.value.code, ran[-1]) == (2, optimize.command("--rounds", "1"))
    monkeypatch.setattr("sys.argv", ["optimize.py", "--out=elsewhere"])
    with pytest.raises(SystemExit, match="the folder is"):
        optimize.main()
