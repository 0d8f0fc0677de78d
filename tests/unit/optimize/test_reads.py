"""What a torch factory reads is found, whoever opens it, and nothing else: not what it writes, nor what is Python's."""

from __future__ import annotations

import compileall
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from forebay.core.errors import SetupError
from forebay.optimize.sources.open import open_original
from forebay.optimize.sources.port import Original

torch = pytest.importorskip("torch", reason="torch comes with an extra")

READS = textwrap.dedent("""\
    import json
    import os
    import sqlite3
    import tempfile
    from pathlib import Path

    import numpy as np
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    import helper
    from parts import layers

    HERE = Path(__file__).parent


    class Net(layers.Net):
        def forward(self, x):
            if not hasattr(self, "scale"):
                self.scale = float((HERE / "scale.txt").read_text())
            return super().forward(x) * self.scale


    def factory():
        torch.load(HERE / "plain.pt")
        kept = torch.load(HERE / "mapped.pt", mmap=True)
        load_file(HERE / "all.safetensors")
        with safe_open(HERE / "some.safetensors", framework="pt") as file:
            file.get_tensor("w")
        torch.export.load(HERE / "program.pt2")
        torch.jit.load(str(HERE / "script.pt"))
        np.load(HERE / "mapped.npy", mmap_mode="r")
        np.memmap(HERE / "raw.bin", dtype=np.float32)
        np.load(HERE.parent / "elsewhere" / "more.npy")
        json.loads((HERE / "current.json").read_bytes())
        (HERE / ".git" / "HEAD").read_text()
        return writes(kept)


    def writes(kept):
        with (HERE / "log.txt").open("a") as log:
            log.write("once more\\n")
        torch.save(kept, HERE / "cache.pt")
        torch.load(HERE / "cache.pt")
        (HERE / "new").write_text("made, then put in its place")
        os.replace(HERE / "new", HERE / "made.txt")
        (HERE / "made.txt").read_text()
        with sqlite3.connect(HERE / "runs.db") as runs:
            runs.execute("create table if not exists runs (number)")
            runs.execute("insert into runs values (1)")
        runs.close()
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).read_bytes()
        return Net().eval(), {"x": torch.ones(2, 4)}


    def reads_what_others_write():
        json.loads((HERE / "current.json").read_bytes())
        os.system(f"echo 7 > {HERE / 'current.json'}")
        return Net().eval(), {"x": torch.ones(2, 4)}


    def ends():
        os._exit(3)
""")

LAYERS = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A factory and all that it reads."""
    above = tmp_path_factory.mktemp("reads")
    here = above / "here"
    for part in (here / "parts", here / ".git", above / "elsewhere"):
        part.mkdir(parents=True)
    (here / "net.py").write_text(READS)
    (here / "helper.py").write_text("WIDTH = 4\n")
    (here / "parts" / "__init__.py").write_text("")
    (here / "parts" / "layers.py").write_text(LAYERS)
    (here / "scale.txt").write_text("2.0")
    (here / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (here / "run1.json").write_text("{}")
    (here / "current.json").symlink_to("run1.json")
    for name in ("plain.pt", "mapped.pt"):
        torch.save({"w": torch.ones(3)}, here / name)
    for name in ("all", "some"):
        save_file({"w": np.ones(3, np.float32)}, str(here / f"{name}.safetensors"))
    module = torch.nn.Linear(4, 3).eval()
    torch.export.save(torch.export.export(module, (torch.ones(2, 4),)), here / "program.pt2")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(module), str(here / "script.pt"))
    np.save(here / "mapped.npy", np.ones(4))
    np.save(above / "elsewhere" / "more.npy", np.ones(4))
    np.ones(4, np.float32).tofile(here / "raw.bin")
    return here


def opened(folder: Path, factory: str = "factory") -> Original:
    work = folder.parent / "work"
    work.mkdir(exist_ok=True)
    return open_original(f"{folder / 'net.py'}:{factory}", None, work)


@pytest.fixture(scope="module")
def read(folder: Path) -> Original:
    return opened(folder)


def test_all_that_is_read_is_found_again_and_again_and_nothing_else(folder: Path, read: Original) -> None:
    assert [one.path for one in read.files] == [
        str(folder.parent / "elsewhere" / "more.npy"),
        *("all.safetensors", "current.json", "helper.py", "mapped.npy", "mapped.pt"),
        *("parts/__init__.py", "parts/layers.py", "plain.pt", "program.pt2", "raw.bin"),
        *("scale.txt", "script.pt", "some.safetensors"),
    ]
    assert compileall.compile_dir(folder, quiet=1), "modules are read in their compiled form from now on"
    assert opened(folder).files == read.files


def test_a_link_that_points_elsewhere_is_another_file(folder: Path, read: Original) -> None:
    (one,) = [one for one in read.files if one.path == "current.json"]
    assert one.difference(folder) == ""
    (folder / "run2.json").write_text("[]")
    (folder / "current.json").unlink()
    (folder / "current.json").symlink_to("run2.json")
    assert one.difference(folder) == "has changed since"


def test_what_somebody_else_writes_meanwhile_is_told(folder: Path) -> None:
    with pytest.raises(SetupError, match=r"current\.json was written to while .*net\.py read it; do it again"):
        opened(folder, "reads_what_others_write")


def test_a_factory_that_ends_its_process_is_told(folder: Path) -> None:
    with pytest.raises(SetupError, match=r"net\.py:ends: its process ended with exit code 3"):
        opened(folder, "ends")
