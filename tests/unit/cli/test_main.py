"""The command line as a stranger meets it: exit codes, messages, help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forebay import __version__
from forebay.cli.main import SUBCOMMANDS


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`forebay ARGUMENTS` in `folder`, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    return subprocess.run(
        [sys.executable, "-c", "from forebay.cli.main import main; main()", *arguments],
        cwd=folder,
        env={**kept, "COLUMNS": "200", "NO_COLOR": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"forebay {__version__}\n", "")


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for name, subcommand in SUBCOMMANDS.items():
        assert name in done.stdout
        assert subcommand.summary in done.stdout
    assert "forebay serve model.onnx" in done.stdout
    code = "import sys, forebay.cli.main; print([m for m in ('numpy', 'fastapi', 'onnxruntime') if m in sys.modules])"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert imported.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [("config", "show"), ("keys", "new"), ("cache", "calibrate")])
def test_help_of_commands_has_examples(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments, "--help")
    assert done.returncode == 0
    assert f"forebay {' '.join(arguments)}" in done.stdout.split("Examples:")[1]


def test_a_setup_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run(tmp_path, "config", "show", FOREBAY_SERVER__PROT="1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: environment: unknown variable 'FOREBAY_SERVER__PROT'; did you mean 'FOREBAY_SERVER__PORT'?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "show", "--port", "99999"), "error: --port: port cannot be '99999'; accepted: a whole number"),
        (("config", "show", "--set", "m.x=1"), "error: --set m.x: unknown key of model 'm': 'x'"),
        (("config", "show", "--config", "no.toml"), "error: no.toml: cannot be read: No such file"),
        (("config", "show", "no.onnx"), "error: model 'no.onnx': there is no file"),
        (("keys", "new", "a b"), "error: key name 'a b' cannot be used"),
    ],
)
def test_messages(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_misspelt_command_names_the_nearest(tmp_path: Path) -> None:
    done = run(tmp_path, "srve")
    assert done.returncode == 2
    assert "Did you mean 'serve'?" in done.stderr


def test_a_misspelt_flag_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "config", "show", "--prot", "1")
    assert done.returncode == 2
    assert "--prot" in done.stderr
    assert "--port" in done.stderr


def test_a_fault_of_our_own_is_none_of_the_exit_codes_that_tell_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text("def run():\n    raise AttributeError('of nothing')\n")
    code = (
        "import forebay.cli.main as m; m.SUBCOMMANDS['faulty'] = m.Subcommand('faulty', 'run', ''); "
        "m.app.command('faulty')(m._listed); m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "faulty"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 70
    assert "AttributeError: of nothing" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: this is a fault of Forebay's")
