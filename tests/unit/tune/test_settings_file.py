"""Only the tuned keys of a settings file change; all that somebody wrote stays."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.core.errors import SetupError
from forebay.tune.settings_file import BEGIN, END, edited
from forebay.tune.slo import parse_slo

VALUES = {"instances": 2, "threads": 1, "max_batch_rows": 32}
EVIDENCE = ["p99 <= 50 ms: 100 answers/s", "all figures: tune.json"]
NEW = f"""{BEGIN}
# p99 <= 50 ms: 100 answers/s
# all figures: tune.json
{END}
instances = 2
threads = 1
max_batch_rows = 32
"""


def test_an_empty_file_gets_evidence_and_settings() -> None:
    assert edited("", VALUES, EVIDENCE) == NEW


def test_what_is_there_stays_and_keeps_its_place_and_comments() -> None:
    before = '# ours\ninstances = "auto"  # ask Kim\nslo_ms = 50 # hard\n\n[version_policy]\nlatest = 2\n'
    after = edited(before, {"instances": 2}, ["why"])
    assert after == (
        "# ours\ninstances = 2  # ask Kim\nslo_ms = 50 # hard\n\n"
        f"{BEGIN}\n# why\n{END}\n\n[version_policy]\nlatest = 2\n"
    )


def test_a_second_run_replaces_the_evidence_of_the_first() -> None:
    once = edited("slo_ms = 50\n", VALUES, ["first"])
    twice = edited(once, VALUES | {"instances": 1}, ["second"])
    assert twice.count(BEGIN) == twice.count(END) == 1
    assert "first" not in twice
    assert tomllib.loads(twice) == {"slo_ms": 50, **VALUES, "instances": 1}
    assert edited(twice, VALUES | {"instances": 1}, ["second"]) == twice


def test_the_same_key_in_a_table_or_in_a_text_is_not_ours() -> None:
    before = 'labels = """\ninstances = 7\n"""\n[version_policy]\ninstances = 9\n'
    after = edited(before, {"instances": 2}, [])
    assert tomllib.loads(after) == {
        "labels": "instances = 7\n",
        "instances": 2,
        "version_policy": {"instances": 9},
    }
    assert before.splitlines()[1] in after


def test_a_value_of_several_lines_is_replaced_whole() -> None:
    after = edited('devices = [\n  "cpu", # one\n]\ninstances = """a\nb"""\n', {"instances": 2}, [])
    assert tomllib.loads(after) == {"devices": ["cpu"], "instances": 2}


def test_line_ends_and_a_missing_last_one_are_kept() -> None:
    after = edited("slo_ms = 50\r\nthreads = 2", {"threads": 1, "instances": 2}, ["why"])
    assert "\n" not in after.replace("\r\n", "")
    assert tomllib.loads(after) == {"slo_ms": 50, "threads": 1, "instances": 2}


def test_every_time_that_an_objective_may_have_is_written_as_it_is() -> None:
    for text in [f"{number}us" for number in range(50, 2000, 50)] + [f"{number / 1000}s" for number in range(10, 3000)]:
        bound_ms = parse_slo(f"p99={text}").bound_ms
        assert tomllib.loads(edited("", {"slo_ms": bound_ms}, [])) == {"slo_ms": bound_ms}
    assert edited("", {"slo_ms": parse_slo("p99=2.01s").bound_ms}, []).endswith("slo_ms = 2010\n")


def test_a_file_that_is_not_toml_is_an_error() -> None:
    with pytest.raises(SetupError, match="is not valid TOML"):
        edited("instances = \n", VALUES, EVIDENCE)


def test_a_form_that_cannot_be_edited_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(SetupError, match="instances = 2"):
        edited("instances.x = 1\n", {"instances": 2}, EVIDENCE)


NAMES = st.sampled_from(["slo_ms", "weight", "labels", "pad", "instances", "threads", "version_policy", '"a b"'])
TEXTS = st.sampled_from(
    ["1", "2.5", '"auto"', "'#'", '"a # b"', "[1, 2]", "[\n 1, # x\n 2,\n]", '"""\nthreads = 3\n"""', "{ latest = 1 }"]
)
COMMENTS = st.sampled_from(["", "  # note", " # instances = 5", "\t#"])
OTHERS = st.sampled_from(["", "# a comment", f"{BEGIN}", f"{END}", "   ", "# threads = 4"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    names = draw(st.lists(NAMES, unique=True))
    lines: list[str] = []
    for name in names:
        lines += draw(st.lists(OTHERS, max_size=2))
        indent = draw(st.sampled_from(["", "  "]))
        lines.append(f"{indent}{name} {draw(st.sampled_from(['=', ' = ']))} {draw(TEXTS)}{draw(COMMENTS)}")
    if draw(st.booleans()):
        lines += [*draw(st.lists(OTHERS, max_size=2)), "[table]", "threads = 9", *draw(st.lists(OTHERS, max_size=1))]
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines) + draw(st.sampled_from(["", "\n"]))


@settings(deadline=None)
@given(documents(), st.dictionaries(st.sampled_from(list(VALUES)), st.integers(1, 4096)))
def test_of_any_file_only_the_tuned_keys_change(text: str, values: dict[str, int]) -> None:
    before: dict[str, Any] = tomllib.loads(text)
    after = edited(text, values, ["evidence"])
    assert tomllib.loads(after) == before | values
    assert after.count(BEGIN) >= 1
    comments = [line for line in text.replace("\r\n", "\n").split("\n") if line.startswith("# a comment")]
    assert edited(after, values, ["evidence"]) == after
    if BEGIN not in text:
        assert [line for line in after.replace("\r\n", "\n").split("\n") if line in comments] == comments
