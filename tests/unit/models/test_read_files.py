"""What a Python model reads besides its own file is part of what it is: files that it declares, modules beside it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.models import python_source

from forebay.core.errors import SetupError
from forebay.models import read_files
from forebay.models.read_files import ReadFiles
from forebay.models.repository import read_model
from forebay.models.source import ModelSource
from forebay.runtimes.python import PythonRuntime

TEXT = """
from pathlib import Path

HERE = Path(__file__).parent

class M(forebay.Model):
    inputs = {"x": ("FP32", [2])}
    outputs = {"y": ("FP32", [2])}
    %s
"""


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just written counts as written long ago."""
    monkeypatch.setattr(read_files, "is_settled", lambda stamp, now_ns: True)


def source_in(folder: Path, declaration: str = "pass") -> ModelSource:
    return python_source(folder / "m.py", TEXT % declaration, "M")


def read_by(source: ModelSource, earlier: ReadFiles | None = None) -> ReadFiles:
    for name in [name for name in sys.modules if name.startswith("beside_")]:
        del sys.modules[name]
    return PythonRuntime(source, "cpu", 1, earlier).read


def test_a_model_that_declares_nothing_is_its_file(tmp_path: Path) -> None:
    (tmp_path / "unrelated.bin").write_bytes(b"x")
    read = read_by(source_in(tmp_path))
    assert read == ReadFiles()
    assert read.added_to("d") == "d"
    assert read.holds()


IN_LOAD = "def load(self, device):\n        self.files = [str(HERE / 'w.bin')]"


@pytest.mark.parametrize(
    "declaration",
    ["files = ['w.bin']", "files = ('./w.bin',)", "files = [HERE / 'w.bin']", "files = [Path('w.bin')]", IN_LOAD],
)
def test_other_weights_are_another_model(tmp_path: Path, declaration: str) -> None:
    source = source_in(tmp_path, declaration)
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"one")
    first = read_by(source)
    assert first.added_to("d") != "d"
    weights.write_bytes(b"two")
    assert not first.holds()
    second = read_by(source)
    assert second.added_to("d") != first.added_to("d")
    weights.write_bytes(b"one")
    assert first.holds()
    assert read_by(source).digest == first.digest


@pytest.mark.parametrize("change", ["part/w.bin", "new.bin"])
def test_a_folder_that_is_declared_counts_with_all_files_in_it(tmp_path: Path, change: str) -> None:
    source = source_in(tmp_path, "files = ['weights/']")
    (tmp_path / "weights" / "part").mkdir(parents=True)
    (tmp_path / "weights" / "part" / "w.bin").write_bytes(b"one")
    first = read_by(source)
    (tmp_path / "weights" / ".lock").touch()
    assert first.holds()
    (tmp_path / "weights" / change).write_bytes(b"two")
    assert not first.holds()
    assert read_by(source).digest != first.digest


def test_what_lies_elsewhere_has_no_part_in_where(tmp_path: Path) -> None:
    """Two workers that have the same files in different places serve the same model."""
    digests = set()
    for name in ("here", "there"):
        folder = tmp_path / name
        (folder / "code").mkdir(parents=True)
        (folder / "w.bin").write_bytes(b"one")
        (folder / "code" / "own.bin").write_bytes(b"two")
        source = source_in(folder / "code", f"files = ['../w.bin', {str(folder / 'code' / 'own.bin')!r}]")
        digests.add(read_by(source).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["gone.bin", "gone/", "../gone.bin"])
def test_a_declared_file_that_is_not_there_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match=r"model m: its class names '.*gone.*' in files, and there is no ") as caught:
        read_by(source_in(tmp_path, f"files = [{name!r}]"))
    assert caught.value.code == "model_load_error"


@pytest.mark.parametrize("files", ["'w.bin'", "b'w.bin'", "3", "None", "{'w.bin': 1}", "[3]", "['']", "[b'w.bin']"])
def test_what_is_no_list_of_paths_is_told(tmp_path: Path, files: str) -> None:
    (tmp_path / "w.bin").touch()
    with pytest.raises(SetupError, match=r"model m: files must be a list of paths") as caught:
        read_by(source_in(tmp_path, f"files = {files}"))
    assert caught.value.code == "model_load_error"


def test_weights_that_are_replaced_while_they_are_loaded_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"one")
    source = source_in(
        tmp_path, "files = ['w.bin']\n    def load(self, device): (HERE / 'w.bin').write_bytes(b'other')"
    )
    with pytest.raises(SetupError, match="changed while it was loaded; load it again"):
        read_by(source)


def test_a_file_that_load_makes_is_read_as_it_is_then(tmp_path: Path) -> None:
    source = source_in(tmp_path, "files = ['w.bin']\n    def load(self, device): (HERE / 'w.bin').write_bytes(b'two')")
    assert read_by(source).holds()


def test_what_another_instance_has_read_is_not_read_again(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.bin").write_bytes(b"one")
    source = source_in(tmp_path, "files = ['w.bin']")
    first = msgspec.msgpack.decode(msgspec.msgpack.encode(read_by(source)), type=ReadFiles)
    with monkeypatch.context() as patch:
        patch.setattr(read_files, "digest_once", _never)
        assert read_by(source, first) == first
    (tmp_path / "w.bin").write_bytes(b"two")
    assert read_by(source, first).digest != first.digest


def _never(*_: Any) -> str:
    raise AssertionError("a file was read")


BESIDE = "import beside_me\n"


@pytest.mark.parametrize("name", ["beside_me.py", "beside_me/__init__.py", "beside_me/inner.py"])
def test_a_module_beside_the_model_counts_where_it_is_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / "beside_me").mkdir()
    for file in ("beside_me/__init__.py", "beside_me/inner.py", "beside_not.py"):
        (tmp_path / file).write_text("from . import inner\n" if "__init__" in file else "")
    if name == "beside_me.py":
        shutil.rmtree(tmp_path / "beside_me")
    (tmp_path / name).write_text("from . import inner\nVALUE = 1\n" if "__init__" in name else "VALUE = 1\n")
    source = python_source(tmp_path / "m.py", BESIDE + TEXT % "pass", "M")
    first = read_by(source)
    (tmp_path / "beside_not.py").write_text("VALUE = 2\n")
    assert read_by(source).digest == first.digest != ""
    (tmp_path / name).write_text((tmp_path / name).read_text() + "VALUE = 2\n")
    assert not first.holds()
    assert read_by(source).digest != first.digest


def test_a_package_that_is_installed_beneath_the_model_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "beside_me.py").touch()
    monkeypatch.syspath_prepend(str(packages))
    assert read_by(python_source(tmp_path / "m.py", BESIDE + TEXT % "pass", "M")) == ReadFiles()


def test_a_class_in_a_package_counts_with_the_modules_of_its_package(tmp_path: Path) -> None:
    package = tmp_path / "beside_pkg"
    (package / "models").mkdir(parents=True)
    for file in ("__init__.py", "models/__init__.py", "common.py"):
        (package / file).touch()
    text = "from beside_pkg import common\n" + TEXT % "pass"
    source = python_source(package / "models" / "m.py", text, "M")
    source = msgspec.structs.replace(source, module="beside_pkg.models.m")
    first = read_by(source)
    (package / "common.py").write_text("VALUE = 2\n")
    assert read_by(source).digest != first.digest


@pytest.fixture
def in_repository(tmp_path: Path) -> Callable[[str], ModelSource]:
    """A model of a repository with `w.bin` and `beside_me.py` in its version's folder."""

    def source(declaration: str) -> ModelSource:
        folder = tmp_path / "repo" / "m" / "1"
        (folder / "weights").mkdir(parents=True)
        for name in ("w.bin", "beside_me.py", ".hidden.bin", "weights/a.bin"):
            (folder / name).touch()
        python_source(folder / "model.py", BESIDE + TEXT % declaration, "M")
        return read_model(tmp_path / "repo" / "m").source(1)

    return source


@pytest.mark.parametrize("files", ["[]", "['w.bin', 'weights', HERE / 'w.bin']"])
def test_in_a_repository_what_the_version_has_is_in_its_digest_already(
    in_repository: Callable[[str], ModelSource], files: str
) -> None:
    assert read_by(in_repository(f"files = {files}")) == ReadFiles()


def test_in_a_repository_what_lies_outside_the_version_or_is_hidden_is_declared(
    in_repository: Callable[[str], ModelSource], tmp_path: Path
) -> None:
    source = in_repository("files = ['../../shared.bin', '.hidden.bin']")
    (tmp_path / "repo" / "shared.bin").write_bytes(b"one")
    first = read_by(source)
    assert [place.name for place in first.places] == [".hidden.bin", "shared.bin"]
    (tmp_path / "repo" / "shared.bin").write_bytes(b"two")
    assert read_by(source).digest != first.digest


def test_what_was_read_just_after_it_was_written_is_not_known_by_its_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"one")
    written_ns = file.stat().st_ctime_ns
    for passed_ns, known in ((1_000_000, False), (1_000_000_000, True)):
        monkeypatch.setattr(time, "time_ns", lambda passed_ns=passed_ns: written_ns + passed_ns)
        read = read_by(source_in(tmp_path, "files = ['w.bin']"))
        assert bool(read.stamp) is known
        assert read.holds()
