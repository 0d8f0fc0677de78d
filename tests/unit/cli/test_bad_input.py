"""What cannot be done is told in one line that names what is wrong and how to mend it, with a stable code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.unit.optimize.digits import SEEN, digits, mlp, write_samples
from tests.unit.optimize.test_folders import bert_weights, folder_of
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.core.errors import SetupError

NET = ("net.onnx", "--samples", "seen.npz")
SETUP, LOAD = "config_error", "model_load_error"

MODULES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x)

def seven(): return 7
def fails(): raise RuntimeError("no weights here")
def needs(a): return a
def one_row(): return Net(), {"x": torch.zeros(1, 64)}
def no_tensor(): return Net(), {"x": [1, 2]}
def no_module(): return "net", {"x": torch.zeros(2, 64)}
def axes(): return Net(), {"x": torch.zeros(2, 64)}, {"tokens": {1: "length"}}
def other_name(): return Net(), {"y": torch.zeros(2, 64)}
"""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that are well, and of things that are not."""
    folder = tmp_path_factory.mktemp("things")
    x, y = digits()
    onnx.save(mlp(), str(folder / "net.onnx"))
    fixed = mlp()
    for tensor in (*fixed.graph.input, *fixed.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, str(folder / "fixed.onnx"))
    shutil.copyfile(folder / "net.onnx", folder / "my net.onnx")
    write_samples(folder / "seen.npz", 40)
    (folder / "cut.npz").write_bytes((folder / "seen.npz").read_bytes()[:500])
    np.savez(folder / "other.npz", z=x[:20])
    np.savez(folder / "narrow.npz", x=x[:20, :10])
    np.savez(folder / "few.npz", x=x[:5])
    np.savez(folder / "again.npz", x=np.tile(x[:4], (10, 1)))
    np.savez(folder / "number.npz", x=np.float32(3))
    np.savez(folder / "short.npz", x=x[:20], labels=y[:10])
    np.savez(folder / "same.npz", x=x[SEEN : SEEN + 40], labels=np.zeros(40, int))
    np.savez(folder / "matrix.npz", x=x[:20], labels=np.zeros((20, 2)))
    seen = slice(SEEN, SEEN + 40)
    np.savez(folder / "strange.npz", x=x[seen], labels=(y[seen] + 1) % 10)
    zeros = x[SEEN:][y[SEEN:] == 0]
    np.savez(folder / "zeros.npz", x=zeros)
    np.save(folder / "nameless.npy", x[:20])
    (folder / "nameless.npy").rename(folder / "nameless.npz")
    folder_of(folder / "whole", bert_weights())
    np.savez(folder / "tokens.npz", input_ids=np.ones((20, 4), int), attention_mask=np.ones((20, 4), int))
    texts = {
        "notes.md": "not a model",
        "garbage.onnx": "garbage",
        "net.pt": "PK",
        "modules.py": MODULES,
        "broken.py": "def factory(:",
        "texts.txt": "\n".join(f"text {number}" for number in range(20)),
        "empty.txt": "",
        "words.jsonl": "\n".join(json.dumps({"x": ["a"] * 64}) for _ in range(9)),
        "keys.jsonl": '{"x": [1]}\n{"y": [1]}\n',
        "bad.jsonl": "nonsense\n",
        "ragged.csv": "a,b\n1,2\n3\n",
        "words.csv": "a,b\n1,two\n",
        "empty.csv": "",
        "tokenizer.json.txt": "{}",
        "file": "",
        "taken/thesis.tex": "years of work",
        "gpt/config.json": '{"model_type": "gpt2"}',
        "bert/config.json": '{"model_type": "bert", "num_attention_heads": 2, "num_hidden_layers": 1}',
        "torn/config.json": '{"model_type": ',
        "nothing/readme.txt": "",
        "report/report.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def run(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SetupError]:
    """Runs a command that is to fail, in a folder in which nothing may be left."""
    monkeypatch.chdir(things)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def failed(*words: str) -> SetupError:
        before = sorted(things.rglob("*"))
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, SetupError), result.output or result.exception
        kept = [path for path in things.rglob("*") if "__pycache__" not in path.parts]
        assert sorted(kept) == [path for path in before if "__pycache__" not in path.parts]
        return result.exception

    return failed


OPTIMIZE: list[tuple[tuple[str, ...], str, list[str]]] = [
    # -- the source
    (("gone.onnx", "--samples", "seen.npz"), SETUP, ["gone.onnx", "there is no file or folder", "Hugging Face folder"]),
    (("notes.md", "--samples", "seen.npz"), SETUP, ["notes.md", "what can be is an .onnx file"]),
    (("net.pt", "--samples", "seen.npz"), SETUP, ["net.pt", "torch.export.save"]),
    (("modules.py", "--samples", "seen.npz"), SETUP, ["modules.py", "write file.py:factory"]),
    (("modules.py:gone", "--samples", "seen.npz"), SETUP, ["has no function 'gone'", "returns (module, inputs)"]),
    (("broken.py:factory", "--samples", "seen.npz"), SETUP, ["SyntaxError", "line 1"]),
    (("garbage.onnx", "--samples", "seen.npz"), LOAD, ["garbage.onnx", "Protobuf parsing failed", "forebay serve"]),
    (
        ("fixed.onnx", "--samples", "seen.npz"),
        SETUP,
        ["no leading variable axis", "export it with a variable first axis"],
    ),
    (("my net.onnx", "--samples", "seen.npz"), SETUP, ["'my net'", "--name"]),
    (("nothing", "--samples", "seen.npz"), SETUP, ["config.json", "a Hugging Face folder has one"]),
    (("gpt", "--samples", "seen.npz"), SETUP, ["'gpt2'", "bert, roberta", "file.py:factory"]),
    (("bert", "--samples", "seen.npz"), SETUP, ["has no model.safetensors"]),
    (
        ("whole", "--samples", "tokens.npz", "--out", "whole/faster"),
        SETUP,
        ["--out whole/faster", "name a folder outside"],
    ),
    (("torn", "--samples", "seen.npz"), SETUP, ["config.json", "copy the folder again"]),
    ((*NET, "--name", "../up"), SETUP, ["'../up'", "letters, digits"]),
    ((*NET, "--name", ""), SETUP, ["''", "letters, digits"]),
    # -- samples
    *(
        (("net.onnx", "--samples", file), SETUP, [file, *said])
        for file, said in (
            ("gone.npz", ["there is no such file", ".jsonl"]),
            ("taken", ["there is no such file", ".jsonl"]),
            ("net.onnx", [".onnx is not taken", ".npz"]),
            ("empty.txt", ["holds no text"]),
            ("texts.txt", ["the model takes x", "--tokenizer tokenizer.json"]),
            ("other.npz", ["holds z", "the model takes x"]),
            ("narrow.npz", ["sample 1", "[10]", "[64]"]),
            ("few.npz", ["holds 5 samples", "at least 8"]),
            ("again.npz", ["4 samples that differ, of 40", "at least 8"]),
            ("number.npz", ["'x' is a single number", "[samples, ...]"]),
            ("nameless.npz", ["without a name", "numpy.savez"]),
            ("cut.npz", ["not a zip file"]),
            ("short.npz", ["10 labels for 20 samples"]),
            ("matrix.npz", ["its label is [0.0, 0.0]", "one number or word"]),
            ("bad.jsonl", ["line 1", "malformed"]),
            ("keys.jsonl", ["line 2", "has y, line 1 has x"]),
            ("words.jsonl", ["sample 1", "is no number"]),
            ("ragged.csv", ["row 3", "1 values for 2 columns"]),
            ("words.csv", ["'two'", "text or label"]),
            ("empty.csv", ["it is empty"]),
        )
    ),
    (("net.onnx", "--samples", "same.npz"), SETUP, ["the same label", "samples of all classes"]),
    (
        ("net.onnx", "--samples", "strange.npz", "--head", "argmax"),
        SETUP,
        ["tell nothing", "--metric accuracy", "labels that are the model's"],
    ),
    (("net.onnx", "--samples", "zeros.npz"), SETUP, ["tell nothing", "--max-drop 0.01", "samples of all kinds"]),
    (
        ("net.onnx", "--samples", "texts.txt", "--tokenizer", "gone.json"),
        SETUP,
        ["--tokenizer gone.json", "no such file"],
    ),
    (
        ("net.onnx", "--samples", "texts.txt", "--tokenizer", "tokenizer.json.txt"),
        SETUP,
        ["--tokenizer", "Model missing"],
    ),
    ((*NET, "--tokenizer", "tokenizer.json.txt"), SETUP, ["is for texts", "leave it away"]),
    # -- options
    ((*NET, "--max-drop", "-1"), SETUP, ["--max-drop -1", "from 0 on"]),
    ((*NET, "--max-drop", "nan"), SETUP, ["--max-drop nan", "from 0 on"]),
    ((*NET, "--max-drop", "5"), SETUP, ["tell nothing", "--max-drop 5", "a smaller --max-drop"]),
    ((*NET, "--min-speedup", "-1"), SETUP, ["--min-speedup -1", "from 0 on"]),
    ((*NET, "--batch-tolerance", "inf"), SETUP, ["--batch-tolerance inf", "from 0 on"]),
    ((*NET, "--slo", "soon"), SETUP, ["--slo soon", "such as 50ms"]),
    ((*NET, "--slo", "0ms"), SETUP, ["--slo 0ms", "above 0"]),
    ((*NET, "--held-out", "1.5"), SETUP, ["--held-out 1.5", "between 0 and 1"]),
    ((*NET, "--rounds", "0"), SETUP, ["--rounds 0", "1 or more"]),
    ((*NET, "--threads", "0"), SETUP, ["--threads 0", "1 or more"]),
    ((*NET, "--max-samples", "3"), SETUP, ["--max-samples 3", "8 or more"]),
    ((*NET, "--seed", "-1"), SETUP, ["--seed -1", "0 or more"]),
    ((*NET, "--keep", "0"), SETUP, ["--keep 0", "1 or more"]),
    ((*NET, "--candidate", "magic"), SETUP, ["--candidate magic", "there are onnx, torch, fused"]),
    (
        (*NET, "--plugin", "nowhere:Thing"),
        SETUP,
        ["--plugin nowhere:Thing", "No module named 'nowhere'", "module:Class"],
    ),
    ((*NET, "--plugin", "tests.models.candidates"), SETUP, ["--plugin tests.models.candidates", "module:Class"]),
    ((*NET, "--plugin", "forebay.optimize.candidates.fused:Fused"), SETUP, ["'fused'", "a name of its own"]),
    ((*NET, "--output", "other"), SETUP, ["--output other", "it has logits"]),
    ((*NET, "--metric", "f1"), SETUP, ["--metric f1", "cosine, top1, max_error, accuracy", "file.py:function"]),
    ((*NET, "--metric", "gone.py:f1", "--max-drop", "0.1"), SETUP, ["--metric gone.py:f1", "there is no file"]),
    ((*NET, "--metric", "accuracy"), SETUP, ["--metric accuracy", "a column `label`"]),
    ((*NET, "--head", "argmax"), SETUP, ["--head argmax", "leave it away"]),
    ((*NET, "--set", "net.instances=2"), SETUP, ["--set net.instances", "allow_pickle and trusted_types alone"]),
    ((*NET, "--set", "nets.allow_pickle=true"), SETUP, ["--set nets.allow_pickle", "'nets'", "net"]),
    ((*NET, "--set", "net.allow_pickle=perhaps"), SETUP, ["--set net.allow_pickle", "perhaps"]),
    ((*NET, "--out", "file"), SETUP, ["--out file", "name a folder"]),
    ((*NET, "--out", "file/below"), SETUP, ["--out file/below", "name another folder"]),
    ((*NET, "--out", "taken"), SETUP, ["--out taken", "thesis.tex", "a new folder"]),
]


OTHER_MODULES: list[tuple[tuple[str, ...], str, list[str]]] = [
    (("modules.py:fails", "--samples", "seen.npz"), SETUP, ["RuntimeError: no weights here"]),
    (("modules.py:axes", "--samples", "seen.npz"), SETUP, ["'tokens'", "the inputs are x"]),
    (("modules.py:seven", "--samples", "seen.npz"), SETUP, ["returned int", "returns (module, inputs)"]),
    (("modules.py:needs", "--samples", "seen.npz"), SETUP, ["'a'", "a function without arguments"]),
    (("modules.py:one_row", "--samples", "seen.npz"), SETUP, ["have 1 rows", "two or more"]),
    (("modules.py:no_tensor", "--samples", "seen.npz"), SETUP, ["'x' is no tensor", "give example tensors"]),
    (("modules.py:no_module", "--samples", "seen.npz"), SETUP, ["is str, not a torch.nn.Module"]),
    (("modules.py:other_name", "--samples", "seen.npz"), SETUP, ["cannot answer its example inputs", "'y'"]),
]
"""Each is loaded by a process with torch, which takes a while."""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [*OPTIMIZE, *(pytest.param(*one, marks=pytest.mark.full) for one in OTHER_MODULES)],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_optimize_cannot_do(
    run: Callable[..., SetupError], words: tuple[str, ...], code: str, said: list[str]
) -> None:
    error = run("optimize", *words)
    assert error.code == code
    assert [part for part in said if part not in error.message] == [], error.message


TUNE: list[tuple[tuple[str, ...], str, list[str]]] = [
    *(
        (("net.onnx", "--slo", slo), SETUP, [f"--slo '{slo}'", "such as p99=50ms"])
        for slo in ("fast", "p0=5ms", "p100=5ms", "p99=0ms", "50ms", "p99=50")
    ),
    *(
        (("net.onnx", "--slo", "p99=5s", *words), SETUP, said)
        for words, said in (
            (("--max-time", "soon"), ["--max-time 'soon'", "90s or 5m"]),
            (("--max-time", "0"), ["--max-time '0'", "above 0"]),
            (("--instances", "none"), ["--instances 'none'", "1,2,4"]),
            (("--instances", "0"), ["--instances '0'", "from 1"]),
            (("--threads", "1.5"), ["--threads '1.5'", "whole numbers"]),
            (("--batch-caps", "-8"), ["--batch-caps '-8'", "whole numbers"]),
            (("--inputs", "gone.txt"), ["--inputs gone.txt", "No such file"]),
            (("--inputs", "notes.md"), ["--inputs notes.md", ".jsonl"]),
            (("--inputs", "cut.npz"), ["--inputs cut.npz", ".npz"]),
            (("--inputs", "empty.txt"), ["--inputs empty.txt", "holds no rows"]),
            (("--inputs", "words.csv"), ["--inputs words.csv", "'two'"]),
            (("--inputs", "examples"), ["--inputs examples", "give a file, zeros or random"]),
            (("--set", "net.instnces=1"), ["instnces", "instances"]),
            (("--config", "gone.toml"), ["gone.toml", "cannot be read"]),
            (("--artefact", "gone.onnx"), ["gone.onnx", "there is no file"]),
            (("--artefact", "net.onnx"), ["--artefact net.onnx", "twice"]),
            (("--plot", "nowhere/tune.png"), ["--plot nowhere/tune.png", "there is no folder"]),
            (("--plot", "tune.xyz"), ["--plot tune.xyz", "png"]),
            (("--json", "nowhere/f.json"), ["--json nowhere/f.json", "there is no folder"]),
            (("--out", "taken"), ["--out taken", "it is a folder"]),
        )
    ),
    (("gone", "--slo", "p99=5s"), SETUP, ["'gone'", "there is no file or folder"]),
    (("nothing", "--slo", "p99=5s"), SETUP, ["nothing is a repository", "there is none in it"]),
    (("report", "--slo", "p99=5s"), SETUP, ["report.json cannot be read", "run forebay optimize again"]),
]


@pytest.mark.parametrize(("words", "code", "said"), TUNE, ids=lambda value: " ".join(value)[:60])
def test_what_tune_cannot_do(
    run: Callable[..., SetupError], words: tuple[str, ...], code: str, said: list[str]
) -> None:
    error = run("tune", *words)
    assert error.code == code
    assert [part for part in said if part not in error.message] == [], error.message


LOG: list[tuple[str, ...]] = [
    ("log", "stats"),
    ("log", "stats", "net"),
    ("log", "clear", "--all"),
    ("log", "export", "net", "--out", "out.npz"),
    ("distill", "net.onnx", "--from-log", "net"),
]


@pytest.mark.parametrize("words", LOG, ids=" ".join)
def test_a_log_that_cannot_be_read(run: Callable[..., SetupError], words: tuple[str, ...]) -> None:
    error = run(*words, "--data-dir", "net.onnx")
    assert error.code == SETUP
    assert "net.onnx/requests cannot be read: Not a directory; is it the server's data folder" in error.message


NOBODY = "http://127.0.0.1:1"
CLIENTS: list[tuple[tuple[str, ...], str]] = [
    (("bench", NOBODY, "--model", "m", "--clients", "0"), "--clients 0: it must be a number above 0"),
    (("bench", NOBODY, "--model", "m", "--rate", "0"), "--rate 0.0: it must be a number above 0"),
    (("bench", NOBODY, "--model", "m", "--rate", "nan"), "--rate nan: it must be a number above 0"),
    (("bench", NOBODY, "--model", "m", "--rate", "inf"), "--rate inf: it must be a number above 0"),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--seconds", "nan"), "--seconds nan"),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--slo-ms", "nan"), "--slo-ms nan"),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--late-bound-ms", "nan"), "--late-bound-ms nan"),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--seed", "-1"), "--seed -1: it must be 0 or more"),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--plot", "no/a.png"), "--plot no/a.png: there is no folder "),
    (("bench", NOBODY, "--model", "m", "--clients", "1", "--plot", "a.xyz"), "--plot a.xyz: .xyz is not written"),
    (("bench", NOBODY, "--model", "m\u00e9/..", "--clients", "1"), "no server answers at 127.0.0.1:1"),
    (("simulate", "--rate", "inf"), "--rate inf: it must be a finite number"),
    (("simulate", "--rate", "9", "--hand-over-us", "inf"), "--hand-over-us inf: it must be a finite number"),
    (("conformance", NOBODY, "--timeout-s", "nan"), "--timeout-s nan: it must be a number above 0"),
    (("jobs", "show", "\udcff"), "'\\udcff' is not Unicode text"),
    (("jobs", "list", "--api-key", "fb_s\u00e9cret"), "the API key holds characters that no key has"),
    (("distill", "net.onnx", "--samples", "seen.npz", "--seed", "4294967296"), "--seed 4294967296: it must be from 0"),
    (("distill", "--teacher-outputs", "my net.npz"), "'my net' is none: name the student with --name"),
    (("config", "show", "net.onnx", "--config", "deep.toml"), "deep.toml: is nested too deeply"),
    (("config", "show", "net.onnx", "--config", "long.toml"), "long.toml: is not valid TOML"),
]


@pytest.mark.parametrize(("words", "said"), CLIENTS, ids=lambda value: ascii(value)[:60])
def test_what_no_server_is_asked_for(
    run: Callable[..., SetupError], things: Path, words: tuple[str, ...], said: str
) -> None:
    (things / "deep.toml").write_text("data_dir = " + "[" * 20_000)
    (things / "long.toml").write_text("data_dir = " + "9" * 5000)
    error = run(*words)
    assert error.code == SETUP
    assert said in error.message
