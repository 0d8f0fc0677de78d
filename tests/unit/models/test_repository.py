"""What counts as a model of a repository, which versions, and what tells that files have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.core.errors import SetupError
from forebay.models.repository import (
    EVERY,
    LATEST,
    VersionPolicy,
    digest_of_files,
    read_model,
    read_policy,
    read_repository,
)
from forebay.models.source import load_class

MODEL = "import forebay\nclass {name}(forebay.Model):\n    inputs = {{}}\n"


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_models_are_folders_and_versions_are_numbers(tmp_path: Path) -> None:
    for path in ("a/1/model.onnx", "a/10/model.onnx", "a/01/m", "a/0/m", "a/x/m", "a/-1/m", "a/1.5/m", "a/.2/m"):
        write(tmp_path / path)
    write(tmp_path / "README.md")
    write(tmp_path / ".git/1/model.onnx")
    write(tmp_path / "_old/1/model.onnx")
    write(tmp_path / "a/2", "a file, no folder")
    found = read_repository(tmp_path)
    assert list(found) == ["a"]
    assert list(found["a"].versions) == [1, 10]
    assert found["a"].problem == ""
    source = found["a"].source(10)
    assert (source.name, source.version, source.runtime) == ("a", "10", "onnx")
    assert source.path == str((tmp_path / "a/10/model.onnx").resolve())
    with pytest.raises(SetupError, match="no version folder"):
        found["a"].source(3)


@pytest.mark.parametrize("name", ["with space", "ümlaut", "a,b", "-a"])
def test_a_name_that_cannot_be_one_is_a_problem(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / "1" / "model.onnx")
    assert "its name" in read_repository(tmp_path)[name].problem


def test_a_model_without_versions_and_a_repository_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "no version folder" in read_repository(tmp_path)["a"].problem
    with pytest.raises(SetupError, match="cannot be read"):
        read_repository(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.onnx"], "model.onnx"),
        (["weights.onnx"], "weights.onnx"),
        (["model.onnx", "other.onnx", "labels.txt"], "model.onnx"),
        (["model.py", "model.onnx", "part.py"], "model.py"),
        (["net.onnx", "README", "tools.py"], "net.onnx"),
    ],
)
def test_the_model_file_of_a_version(tmp_path: Path, files: list[str], chosen: str) -> None:
    for name in files:
        write(tmp_path / "m" / "1" / name)
    assert Path(read_model(tmp_path / "m").source(1).path).name == chosen


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a.onnx", "b.onnx"], "several models: a.onnx, b.onnx"),
        ([], "no model file"),
        (["tools.py"], "no model file"),
    ],
)
def test_a_version_without_one_model_file(tmp_path: Path, files: list[str], said: str) -> None:
    for name in [*files, ".hidden"]:
        write(tmp_path / "m" / "1" / name)
    with pytest.raises(SetupError, match=said):
        read_model(tmp_path / "m").source(1)


def test_the_class_of_a_python_model(tmp_path: Path) -> None:
    write(tmp_path / "m/1/model.py", MODEL.format(name="One"))
    assert load_class(read_model(tmp_path / "m").source(1)).__name__ == "One"
    # Read anew each time, however quickly it changes.
    write(tmp_path / "m/1/model.py", MODEL.format(name="Two"))
    assert load_class(read_model(tmp_path / "m").source(1)).__name__ == "Two"
    write(tmp_path / "m/1/model.py", MODEL.format(name="One") + MODEL.format(name="Two"))
    with pytest.raises(SetupError, match=r"exactly one.*One, Two.*model\.toml.*class = "):
        load_class(read_model(tmp_path / "m").source(1))
    write(tmp_path / "m/model.toml", 'class = "Two"')
    assert load_class(read_model(tmp_path / "m").source(1)).__name__ == "Two"
    write(tmp_path / "m/1/model.py", "from forebay import Model\n")
    write(tmp_path / "m/model.toml", "")
    with pytest.raises(SetupError, match="it has: none"):
        load_class(read_model(tmp_path / "m").source(1))


@pytest.mark.parametrize(
    "text", ["class = 3", 'class = "a.b"', "version_policy = 1", "not toml", "version_policy = []"]
)
def test_a_wrong_model_toml_is_a_problem_that_names_it(tmp_path: Path, text: str) -> None:
    write(tmp_path / "m/1/model.onnx")
    write(tmp_path / "m/model.toml", text)
    assert "model.toml" in read_model(tmp_path / "m").problem


@pytest.mark.parametrize(
    ("value", "policy", "chosen"),
    [
        ("all", EVERY, [1, 2, 5]),
        ({"latest": 1}, LATEST, [5]),
        ({"latest": 2}, VersionPolicy(latest=2), [2, 5]),
        ({"latest": 9}, VersionPolicy(latest=9), [1, 2, 5]),
        ([5, 1], VersionPolicy(listed=(5, 1)), [1, 5]),
        ([7], VersionPolicy(listed=(7,)), [7]),
    ],
)
def test_policies(value: object, policy: VersionPolicy, chosen: list[int]) -> None:
    assert read_policy(value, "model.toml") == policy
    assert policy.choose([5, 1, 2]) == chosen


@pytest.mark.parametrize(
    "value", ["latest", 1, {}, {"latest": 0}, {"latest": True}, {"latest": 1, "x": 1}, [0], [True], ["1"], [1.0], None]
)
def test_policies_that_are_none(value: object) -> None:
    with pytest.raises(SetupError, match=r"model\.toml.*accepted"):
        read_policy(value, "model.toml")


def test_a_stamp_changes_with_anything_that_could_change_an_answer(tmp_path: Path) -> None:
    model = write(tmp_path / "m/1/model.onnx", "one")
    folder = tmp_path / "m"
    seen = {read_model(folder).stamp()}

    def changed() -> bool:
        stamp = read_model(folder).stamp()
        new = stamp not in seen
        seen.add(stamp)
        return new

    assert not changed()
    write(folder / "1/__pycache__/model.cpython-311.pyc")
    write(folder / "1/.swap")
    write(folder / "notes/plan.md")
    assert not changed()
    before = model.stat()
    write(model, "two")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size, and the time set back
    assert changed()
    write(folder / "1/part/weights.bin")
    assert changed()
    write(folder / "model.toml", "threads = 1")
    assert changed()
    (folder / "2").mkdir()
    assert changed()
    (folder / "2").rmdir()
    assert not changed()


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold whoever opens it for ever, a device would never end."""
    model = write(tmp_path / "m/1/model.onnx")
    folder = read_model(tmp_path / "m")
    stamp, digest = folder.stamp(), digest_of_files(folder.files(1))
    os.mkfifo(tmp_path / "m/1/pipe")
    (tmp_path / "m/1/zero").symlink_to("/dev/zero")
    (tmp_path / "m/1/gone").symlink_to("nowhere")
    assert folder.files(1) == [tmp_path / "m/model.toml", model]
    assert (folder.stamp(), digest_of_files(folder.files(1))) == (stamp, digest)
    os.mkfifo(tmp_path / "m/model.toml")
    assert digest_of_files(folder.files(1)) == digest
    assert "model.toml: is no regular file" in read_model(tmp_path / "m").problem


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "one"), write(tmp_path / "b", "two")
    digest = digest_of_files([a, b])
    assert digest_of_files([b, a]) == digest
    os.utime(a)
    assert digest_of_files([a, b]) == digest
    assert digest_of_files([a]) != digest
    assert digest_of_files([a, b, tmp_path / "gone"]) == digest
    write(a, "onetwo")
    write(b, "")
    assert digest_of_files([a, b]) != digest
