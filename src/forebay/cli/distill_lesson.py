"""Teacher and rows of `forebay distill`, from what the command line says of them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forebay.cli.distill_teacher import EngineTeacher, exported, is_hugging_face
from forebay.core.errors import SetupError
from forebay.core.settings_sources import LoadedSettings, load_settings
from forebay.core.settings_values import did_you_mean
from forebay.distill.kept import KeptAnswers
from forebay.distill.run import Lesson, Watcher
from forebay.distill.students.port import is_text
from forebay.distill.transfer import from_file, from_log, from_outputs
from forebay.models.repository import is_name
from forebay.models.signature import Signature
from forebay.optimize.samples import Tokenize
from forebay.optimize.texts import open_tokenizer, tokenizer_beside
from forebay.request_log.folder import models_in
from forebay.tune.subject import source_of

KEPT = "distill"
"""The folder of teachers' answers in the data folder."""
_TEXTS = (".txt", ".csv", ".jsonl")


@dataclass(frozen=True)
class Given:
    """What the command line says of teacher and rows."""

    teacher: str | None
    samples: Path | None
    log_of: str | None
    tenants: tuple[str, ...]
    outputs: Path | None
    test: Path | None
    name: str | None
    tokenizer: Path | None
    vectors: Path | None
    max_tokens: int
    config_file: Path | None
    data_dir: Path | None

    def check(self) -> None:
        """What can be told before anything is opened. Raises `SetupError`."""
        rows = [flag for flag, value in (("--samples", self.samples), ("--from-log", self.log_of)) if value is not None]
        if self.outputs is not None:
            more = ["TEACHER"] * (self.teacher is not None) + rows + ["--test"] * (self.test is not None)
            if more:
                raise SetupError(
                    f"--teacher-outputs {self.outputs} holds the rows and their answers; leave {more[0]} away"
                )
        elif self.teacher is None:
            raise SetupError("name the TEACHER, as for forebay serve, or a file of its answers: --teacher-outputs FILE")
        elif len(rows) != 1:
            told = "both --samples and --from-log are given" if rows else "there are no rows to learn from"
            raise SetupError(f"{told}; write --samples FILE or --from-log NAME")
        if self.tenants and self.log_of is None:
            raise SetupError(f"--tenant {self.tenants[0]} goes with --from-log NAME")
        for flag, file in (("--samples", self.samples), ("--test", self.test), ("--tokenizer", self.tokenizer)):
            if file is not None and not file.is_file():
                raise SetupError(f"{flag} {file}: there is no such file")
        if self.vectors is not None and not self.vectors.is_dir():
            raise SetupError(f"--vectors {self.vectors}: there is no such folder; name one with a model.safetensors")
        named = "may have letters, digits, '.', '_' and '-', the first a letter or digit"
        if self.name is not None and not is_name(self.name):
            raise SetupError(f"--name {self.name}: it {named}")
        if self.name is None and self.outputs is not None and not is_name(self.outputs.stem):
            raise SetupError(
                f"--teacher-outputs {self.outputs}: a model's name {named}; {self.outputs.stem!r} is none: name the "
                "student with --name"
            )

    @contextlib.contextmanager
    def lesson(self, watcher: Watcher) -> Iterator[Lesson]:
        """Teacher and rows; the teacher runs within the context. Raises `SetupError`."""
        flags = {} if self.data_dir is None else {"data_dir": str(self.data_dir)}
        loaded = load_settings(config_file=self.config_file, environ=os.environ, flags=flags, sets=())
        if self.outputs is not None:
            signature, transfer = from_outputs(self.outputs)
            name = self.name or self.outputs.stem
            yield Lesson(
                name, signature, transfer.sha256, transfer, tokenizer=self._own_tokenizer(), max_tokens=self.max_tokens
            )
            return
        assert self.teacher is not None
        with tempfile.TemporaryDirectory(prefix="forebay-teacher-") as work:
            watcher.says("opening the teacher")
            folder = Path(self.teacher) if is_hugging_face(self.teacher) else None
            source = exported(self.teacher, None, Path(work)) if folder else source_of(self.teacher, None)
            tokenizer = self._own_tokenizer() or tokenizer_beside(folder or Path(source.path))
            with EngineTeacher(source, loaded, self.config_file, os.environ) as teacher:
                yield self._lesson(teacher, loaded, folder, tokenizer)

    def _own_tokenizer(self) -> Path | None:
        """The one that was named, else the one whose tokens the vectors are of."""
        return self.tokenizer or (None if self.vectors is None else tokenizer_beside(self.vectors))

    def _lesson(
        self, teacher: EngineTeacher, loaded: LoadedSettings, folder: Path | None, tokenizer: Path | None
    ) -> Lesson:
        data_dir, signature = loaded.settings.data_dir.resolve(), teacher.signature
        if self.log_of is not None:
            known = models_in(data_dir)
            if self.log_of not in known:
                there = f"there are {', '.join(known)}{did_you_mean(self.log_of, known)}" if known else "there is none"
                raise SetupError(
                    f"--from-log {self.log_of}: no request of such a model is logged below {str(data_dir)!r}; {there}. "
                    "The setting request_log has requests written (docs/request-log.md)"
                )
            transfer = from_log(known[self.log_of], self.log_of, signature, teacher.digest, self.tenants or None)
        else:
            assert self.samples is not None
            transfer = from_file(self.samples, signature, self._tokenize(self.samples, signature, tokenizer))
        test = None
        if self.test is not None:
            test = from_file(self.test, signature, self._tokenize(self.test, signature, tokenizer))
        return Lesson(
            name=self.name or teacher.name,
            signature=signature,
            digest=teacher.digest,
            transfer=transfer,
            teacher=teacher,
            test=test,
            kept=KeptAnswers(data_dir / KEPT, teacher.name, teacher.digest),
            path=folder,
            tokenizer=tokenizer,
            max_tokens=self.max_tokens,
        )

    def _tokenize(self, file: Path, signature: Signature, tokenizer: Path | None) -> Tokenize | None:
        """For a teacher that takes tokens, where the file may hold texts."""
        if tokenizer is None or is_text(signature) or file.suffix.lower() not in _TEXTS:
            return None
        return open_tokenizer(tokenizer, self.max_tokens)
