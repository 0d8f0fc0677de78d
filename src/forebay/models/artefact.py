"""What `forebay optimize` notes beside a model that it made, and whether that still holds where it is to be served.

An artefact's answers were compared with those of its source, on one kind of processor. The note, `artefact.json` in the
folder of the model file, says which source and which instructions. Another source, or a processor on which the
library takes another path through its integer arithmetic, and nobody has compared anything.

A note is about the model file that it names, and about one of the same content under another name.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from forebay.core.errors import SetupError
from forebay.models.read_files import ReadFiles
from forebay.models.repository import Stamp, is_settled, stamp_of
from forebay.models.signature import Signature
from forebay.models.source import MEASURED_FILE, LoadOptions, ModelSource, digest_of, model_files, open_source
from forebay.models.source_files import SourceFile, file_digest, walk

NOTE_FILE = "artefact.json"
FORMAT = 1
_CPU_FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""What the libraries choose their kernels by, in the spelling of Linux."""
_NO_OPTIONS = LoadOptions()


class ServedWith(msgspec.Struct, frozen=True, kw_only=True):
    """The settings with which an artefact is measured, and without which it is not served."""

    device: str = "cpu"
    inference_precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def options(self) -> LoadOptions:
        """What they say about loading it."""
        return LoadOptions(inference_precision=self.inference_precision)


class ArtefactNote(msgspec.Struct, frozen=True, kw_only=True):
    """`artefact.json`. Digests are SHA-256 as hex."""

    format: int = FORMAT
    candidate: str
    """The recipe, such as `static-int8-excluded`."""
    model: str
    """The model file's name in this folder."""
    model_sha256: str
    """As `artefact_digest` gives it."""
    source: str
    """Where the source was: a file or a folder, absolute."""
    source_sha256: str
    source_files: tuple[SourceFile, ...] = ()
    """What it was made from besides: files that a factory read, and those that the user named."""
    isa: tuple[str, ...] = ()
    """Instruction sets of the processor on which it was compared; empty: its answers do not depend on them."""
    versions: Mapping[str, str] = {}
    """Library name to version, of those that made and ran it."""
    served_with: ServedWith = ServedWith()
    refuses: Mapping[str, tuple[str, ...]] = {}
    """Input name to what the source takes nowhere there, see `TensorSpec`: an ONNX graph would make something of it."""

    def refusing(self, signature: Signature) -> Signature:
        """An artefact's signature that refuses what its source does."""
        inputs = (
            msgspec.structs.replace(spec, refuses=self.refuses.get(spec.name, spec.refuses))
            for spec in signature.inputs
        )
        return msgspec.structs.replace(signature, inputs=tuple(inputs))


class Known(msgspec.Struct, frozen=True):
    """A model whose files were read as a whole: their digest, and what tells whether they have been written to since.
    Whoever loads it from the same files need not read them for their digests again.
    """

    digest: str
    """As `digest_of` gives it, with the options that the model is loaded with."""
    files: tuple[str, ...]
    """The model's, the note beside it, and the files that the note says it was made from; there or not."""
    folder: str
    """The source, where that is a folder; else empty."""
    stamp: Stamp
    """Empty: they had been written to just before, and may be again within one tick of the file system's clock."""
    read: ReadFiles | None = None
    """What the first instance has read besides them; None: none was loaded yet."""
    noted: bool = False
    """Whether the note beside the model is about this model."""

    def holds(self) -> bool:
        """Whether nothing was written to since."""
        return bool(self.stamp) and self.stamp == _stamp(self.files, self.folder)


def inspect(source: ModelSource, options: LoadOptions) -> Known:
    """Read a model's files once. Raises `SetupError` as `check_artefact` does, and `OSError`."""
    files, folder = _files_of(source)
    stamp, now_ns = _stamp(files, folder), time.time_ns()
    plain, noted = _check_files(source)
    digest = plain if options.inference_precision == "fp32" else digest_of(source, options)
    settled = is_settled(stamp, now_ns) and stamp == _stamp(files, folder)
    return Known(digest, files, folder, stamp if settled else (), noted=noted)


def check_artefact(
    source: ModelSource, device: str = "cpu", options: LoadOptions = _NO_OPTIONS, known: Known | None = None
) -> ArtefactNote | None:
    """The note about a model; None where there is none, which passes. Raises `SetupError` (`model_load_error`) where
    it does not fit the model, its source (if that is on this machine), this processor, or the device and options that
    it is loaded with.

    known: what was found of these files before; they are read again only where it does not hold any more.
    """
    note = read_note(Path(source.path).parent)
    if note is None:
        return None
    noted = known.noted if known is not None and known.holds() else _check_files(source)[1]
    if not noted:
        return None
    _check_settings(source, note.served_with, device, options, Path(source.path).parent / NOTE_FILE)
    here = isa_here()
    if note.isa and note.isa != here:
        differing = _difference(note.isa, here)
        raise _refused(
            source,
            f"its answers were compared with the original's on a processor that differs from this one ({differing}); "
            f"run forebay optimize on this machine, or delete {Path(source.path).parent / NOTE_FILE} to serve answers "
            "that nobody compared here",
        )
    return note


def _check_files(source: ModelSource) -> tuple[str, bool]:
    """The model's digest, and whether there is a note about it. Raises `SetupError` where it, or its source's, is not
    what the note says.
    """
    path = Path(source.path)
    digest, note = digest_of(source), read_note(path.parent)
    if note is None:
        return digest, False
    renamed = note.model != path.name
    as_noted = artefact_digest(source, note.model) if renamed or source.runtime == "python" else digest
    is_it = as_noted == note.model_sha256
    if renamed and not is_it:
        return digest, False
    file = path.parent / NOTE_FILE
    if not is_it:
        raise _refused(source, f"{path} is not the file that {file} was written for; run forebay optimize again")
    if changed := _change_of_origin(note):
        raise _refused(
            source,
            f"it was made from {changed}; run forebay optimize on it again, or delete {file} to serve answers of the "
            "former model",
        )
    return digest, True


def artefact_digest(source: ModelSource, called: str = "") -> str:
    """SHA-256 of an artefact for its note, as hex: as `digest_of` gives it; of a Python model all files of its folder,
    which are the same in a repository and outside, however its class is named.

    called: what the model file was called when it was noted; empty: as now.
    """
    if source.runtime != "python":
        return digest_of(source, called=called)
    path, digest = Path(source.path), hashlib.sha256()
    named = {file.relative_to(path.parent).as_posix(): file for file in walk(path.parent)}
    for beside in (NOTE_FILE, MEASURED_FILE):
        named.pop(beside, None)
    named[called or path.name] = named.pop(path.name)
    for name in sorted(named):
        digest.update(f"{name}\0{file_digest(named[name])}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _change_of_origin(note: ArtefactNote) -> str:
    """The source, where it is on this machine, and what has become of it or of a file that it depends on; empty:
    nothing.
    """
    origin = Path(note.source)
    if not origin.exists():
        return ""
    if origin_digest(origin) != note.source_sha256:
        return f"{origin}, which has changed since"
    for one in note.source_files:
        if difference := one.difference(origin.parent):
            return f"{origin}, which depends on {one.place(origin.parent)}, and that {difference}"
    return ""


def _files_of(source: ModelSource) -> tuple[tuple[str, ...], str]:
    """Files and folder of `Known`. Finding the files that belong to an ONNX file takes a look at all of it."""
    files = [*model_files(source), Path(source.path).parent / NOTE_FILE]
    note = read_note(Path(source.path).parent)
    origin = Path(note.source) if note is not None else None
    if origin is not None and not origin.is_dir():
        is_model = origin.suffix.lower() == ".onnx" and origin.is_file()
        files += model_files(open_source(str(origin))) if is_model else [origin]
    if note is not None:
        files += [one.place(Path(note.source).parent) for one in note.source_files]
    return tuple(map(str, files)), str(origin) if origin is not None and origin.is_dir() else ""


def _stamp(files: tuple[str, ...], folder: str) -> Stamp:
    return stamp_of([*map(Path, files), *(_files_below(Path(folder)) if folder else ())])


def _check_settings(source: ModelSource, compared: ServedWith, device: str, options: LoadOptions, file: Path) -> None:
    for name, then, now in (
        ("devices", compared.device.partition(":")[0], device.partition(":")[0]),
        ("inference_precision", compared.inference_precision, options.inference_precision),
    ):
        if then != now:
            raise _refused(
                source,
                f"its answers were compared with {name} {then}, the settings say {now}; set {name} as "
                f"its model.toml was written, or delete {file} to serve answers that nobody compared",
            )


def read_note(folder: Path) -> ArtefactNote | None:
    """The note in a folder; None where there is none. Raises `SetupError` (`model_load_error`) for one that cannot be
    read.
    """
    file = folder / NOTE_FILE
    try:
        note = msgspec.json.decode(file.read_bytes(), type=ArtefactNote)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror or error}", code="model_load_error") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(
            f"{file} is no note of forebay optimize ({error}); run forebay optimize again", code="model_load_error"
        ) from None
    if note.format != FORMAT:
        raise SetupError(
            f"{file} has format {note.format}, this version of Forebay reads {FORMAT}; run forebay optimize again",
            code="model_load_error",
        )
    return note


def origin_digest(origin: Path) -> str:
    """SHA-256 of a source, as hex: of a model file with its external data, or of all files in a folder."""
    if not origin.is_dir():
        return digest_of(open_source(str(origin))) if origin.suffix.lower() == ".onnx" else file_digest(origin)
    digest = hashlib.sha256()
    for file in _files_below(origin):
        digest.update(f"{file.relative_to(origin).as_posix()}\0{file_digest(file)}\n".encode())
    return digest.hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """All files but hidden ones and those in hidden folders, in a fixed order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def isa_here() -> tuple[str, ...]:
    """The machine's architecture and those of its processor's instruction sets that matter, in a fixed order."""
    flags: set[str] = set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    except OSError:
        pass  # not Linux: the architecture alone has to do
    return (platform.machine().lower(), *(flag for flag in _CPU_FLAGS if flag in flags))


def _difference(noted: tuple[str, ...], here: tuple[str, ...]) -> str:
    lacking = [name for name in noted if name not in here]
    more = [name for name in here if name not in noted]
    parts = [f"lacks {', '.join(lacking)}"] if lacking else []
    return "it " + " and ".join([*parts, *([f"has {', '.join(more)} besides"] if more else [])])


def _refused(source: ModelSource, reason: str) -> SetupError:
    return SetupError(
        f"model {source.name} is an artefact that must not be served here: {reason}", code="model_load_error"
    )
