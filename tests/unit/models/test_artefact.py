"""An artefact is served only where its comparison with the original still means something."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from tests.unit.optimize.digits import mlp

from forebay.core.errors import SetupError
from forebay.models.artefact import (
    NOTE_FILE,
    ArtefactNote,
    Known,
    check_artefact,
    inspect,
    isa_here,
    origin_digest,
)
from forebay.models.source import LoadOptions, digest_of, open_source
from forebay.models.source_files import taken
from forebay.runtimes.port import load_runtime


def place(folder: Path, *, source: Path | None = None, **changes: Any) -> Path:
    """An original, an artefact of it in a folder of its own, and its note, but for the changes. `source`: what it is
    said to be made from, in place of the original.
    """
    made = folder / "made"
    made.mkdir()
    original, artefact = folder / "original.onnx", made / "model.onnx"
    onnx.save(mlp(), str(original))
    artefact.write_bytes(original.read_bytes())
    facts: dict[str, Any] = {
        "format": 1,
        "candidate": "static-int8",
        "model": artefact.name,
        "model_sha256": digest_of(open_source(str(artefact))),
        "source": str(source or original),
        "source_sha256": origin_digest(source or original),
        "isa": isa_here(),
        **changes,
    }
    (made / NOTE_FILE).write_text(json.dumps(facts))
    return artefact


def refusal(artefact: Path) -> str:
    with pytest.raises(SetupError) as caught:
        load_runtime(open_source(str(artefact)), "cpu", 1)
    assert caught.value.code in ("model_load_error", "config_error")
    return caught.value.message


def test_an_artefact_that_fits_is_loaded(tmp_path: Path) -> None:
    assert load_runtime(open_source(str(place(tmp_path))), "cpu", 1).signature.batched


def test_a_source_that_changed_is_told_with_the_mend(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    (tmp_path / "original.onnx").write_bytes(b"another model")
    assert "has changed since; run forebay optimize on it again" in refusal(artefact)


def test_a_source_that_is_not_on_this_machine_cannot_be_asked(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    (tmp_path / "original.onnx").unlink()
    check_artefact(open_source(str(artefact)))


@pytest.fixture
def weights(tmp_path: Path) -> list[Path]:
    """What a factory read: one file beside it, one elsewhere."""
    files = [tmp_path / "net" / "deep" / "weights.pt", tmp_path / "elsewhere" / "more.pt"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"as they were trained first")
    (tmp_path / "net" / "net.py").write_text("def factory(): ...")
    return files


def made_of(folder: Path, weights: list[Path]) -> Path:
    factory = folder / "net" / "net.py"
    files = msgspec.to_builtins(taken(weights, factory.parent))
    assert {one["path"] for one in files} == {"deep/weights.pt", str(folder / "elsewhere" / "more.pt")}
    return place(folder, source=factory, source_files=files)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("content", [b"as they were trained anew.", b"shorter", None])
def test_weights_that_were_trained_anew_are_told_with_their_name_and_the_mend(
    tmp_path: Path, weights: list[Path], number: int, content: bytes | None
) -> None:
    artefact, file = made_of(tmp_path, weights), weights[number]
    check_artefact(open_source(str(artefact)))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    what = "is gone" if content is None else "has changed since"
    told = f"which depends on {file}, and that {what}; run forebay optimize on it again, or delete "
    assert told in refusal(artefact)


def test_weights_that_were_written_again_as_they_were_are_the_same(tmp_path: Path, weights: list[Path]) -> None:
    artefact = made_of(tmp_path, weights)
    known = settled(artefact)
    weights[0].write_bytes(weights[0].read_bytes())
    assert not known.holds()
    check_artefact(open_source(str(artefact)), known=known)


def test_weights_count_only_where_the_factory_is(tmp_path: Path, weights: list[Path]) -> None:
    artefact = made_of(tmp_path, weights)
    weights[0].unlink()
    (tmp_path / "net" / "net.py").unlink()
    check_artefact(open_source(str(artefact)))


def test_another_processor_is_told_with_what_differs(tmp_path: Path) -> None:
    artefact = place(tmp_path, isa=[*isa_here(), "a_future_flag"])
    message = refusal(artefact)
    assert "lacks a_future_flag" in message
    assert "run forebay optimize on this machine" in message


def test_what_does_not_depend_on_the_processor_goes_everywhere(tmp_path: Path) -> None:
    check_artefact(open_source(str(place(tmp_path, isa=[]))))


def test_a_model_file_that_was_replaced_is_told(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    artefact.write_bytes(artefact.read_bytes() + b"\0")
    assert "is not the file that" in refusal(artefact)


def test_a_note_of_another_file_does_not_matter(tmp_path: Path) -> None:
    artefact = place(tmp_path, model="other.onnx", model_sha256="0" * 64)
    check_artefact(open_source(str(artefact)))


def test_an_artefact_under_another_name_is_checked_all_the_same(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    renamed = artefact.rename(artefact.with_name("faster.onnx"))
    check_artefact(open_source(str(renamed)))
    known = settled(renamed)
    assert known.noted
    (tmp_path / "original.onnx").write_bytes(b"another model")
    assert "has changed since; run forebay optimize on it again" in refusal(renamed)
    with pytest.raises(SetupError, match="has changed since"):
        check_artefact(open_source(str(renamed)), known=known)


def test_so_is_one_that_is_known_already(tmp_path: Path) -> None:
    artefact = place(tmp_path, served_with={"inference_precision": "bf16"})
    renamed = artefact.rename(artefact.with_name("faster.onnx"))
    known = settled(renamed)
    with pytest.raises(SetupError, match="compared with inference_precision bf16"):
        check_artefact(open_source(str(renamed)), known=known)


def test_a_model_of_openvino_under_another_name_is_checked_with_its_weights(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.xml").write_text("<net/>")
    (made / "model.bin").write_bytes(b"weights")
    facts = {
        "candidate": "openvino-bf16",
        "model": "model.xml",
        "model_sha256": digest_of(open_source(str(made / "model.xml"))),
        "source": str(tmp_path / "gone.onnx"),
        "source_sha256": "0" * 64,
        "served_with": {"inference_precision": "bf16"},
    }
    (made / NOTE_FILE).write_text(json.dumps(facts))
    for suffix in (".xml", ".bin"):
        (made / f"model{suffix}").rename(made / f"net{suffix}")
    source = open_source(str(made / "net.xml"))
    with pytest.raises(SetupError, match="compared with inference_precision bf16"):
        check_artefact(source)
    check_artefact(source, options=LoadOptions(inference_precision="bf16"))
    (made / "net.bin").write_bytes(b"others")
    check_artefact(source)  # another model


def test_a_device_or_a_precision_that_nobody_compared_is_told_with_the_mend(tmp_path: Path) -> None:
    artefact = place(tmp_path, served_with={"device": "cuda:0"})
    assert "compared with devices cuda, the settings say cpu; set devices as its model.toml was written" in refusal(
        artefact
    )
    check_artefact(open_source(str(artefact)), "cuda:1")
    with pytest.raises(SetupError, match="compared with inference_precision fp32, the settings say bf16"):
        check_artefact(open_source(str(artefact)), "cuda:1", LoadOptions(inference_precision="bf16"))


@pytest.mark.parametrize("changes", [{"format": 99}, {"isa": 5}])
def test_a_note_that_cannot_be_read_is_no_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert NOTE_FILE in refusal(place(tmp_path, **changes))


def settled(artefact: Path) -> Known:
    """What is known of files that were written some time ago."""
    time.sleep(0.15)
    known = inspect(open_source(str(artefact)), LoadOptions())
    assert known.holds()
    return known


def test_what_is_known_already_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = place(tmp_path)
    known = settled(artefact)
    source = open_source(str(artefact))
    assert known.digest == digest_of(source)
    monkeypatch.setattr("forebay.models.artefact.digest_of", lambda *_: pytest.fail("it was read again"))
    assert load_runtime(source, "cpu", 1, known=known).signature.batched


@pytest.mark.parametrize("changed", ["original.onnx", "made/model.onnx", "made/artefact.json"])
def test_what_was_written_to_since_is_not_known_any_more(tmp_path: Path, changed: str) -> None:
    artefact = place(tmp_path)
    known = settled(artefact)
    file = tmp_path / changed
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # as long as it was
    file.write_bytes(content)
    os.utime(file, ns=(file.stat().st_atime_ns, 10**18))
    assert not known.holds()
    with pytest.raises(SetupError):
        check_artefact(open_source(str(artefact)), known=known)


def test_a_note_that_was_not_there_is_looked_at_when_it_comes(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    note = artefact.parent / NOTE_FILE
    content = note.read_bytes()
    note.unlink()
    known = settled(artefact)
    note.write_bytes(content.replace(b'"isa": ["', b'"isa": ["other_architecture", "'))
    with pytest.raises(SetupError, match="lacks other_architecture"):
        check_artefact(open_source(str(artefact)), known=known)


def test_files_of_a_folder_count_as_the_source_one_by_one(tmp_path: Path) -> None:
    source = tmp_path / "net"
    source.mkdir()
    (source / "config.json").write_text("{}")
    artefact = place(tmp_path, source=source)
    known = settled(artefact)
    (source / "more.json").write_text("{}")
    assert not known.holds()


def test_what_was_written_just_now_may_be_written_again_unseen(tmp_path: Path) -> None:
    artefact = place(tmp_path)
    time.sleep(0.15)
    os.utime(artefact)
    known = inspect(open_source(str(artefact)), LoadOptions())
    assert known.digest == digest_of(open_source(str(artefact)))
    assert not known.holds()


def test_the_digest_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_text("2")
    first = origin_digest(tmp_path)
    (tmp_path / ".hidden").write_text("3")
    assert origin_digest(tmp_path) == first
    (tmp_path / "deep" / "b").rename(tmp_path / "deep" / "c")
    assert origin_digest(tmp_path) != first


def test_the_note_is_written_as_it_is_read() -> None:
    assert "candidate" in ArtefactNote.__struct_fields__


@pytest.mark.parametrize(("changes", "refused"), [({}, ()), ({"refuses": {"x": ["nan"], "other": ["inf"]}}, ("nan",))])
def test_an_artefact_refuses_what_its_note_says_of_the_source(
    tmp_path: Path, changes: dict[str, Any], refused: tuple[str, ...]
) -> None:
    """A note of an earlier version says nothing of it."""
    (spec,) = load_runtime(open_source(str(place(tmp_path, **changes))), "cpu", 1).signature.inputs
    assert (spec.name, spec.refuses) == ("x", refused)
