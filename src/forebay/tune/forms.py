"""What `forebay optimize` left in a folder, as forms of one model to choose between."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.optimize.output import choose, forms_in, report_in
from forebay.optimize.report import Report
from forebay.tune.inputs import Tokenizer


class Forms(msgspec.Struct, frozen=True):
    """`models`: the folders of one model each, by the name of the candidate, the fastest by itself first: an order that
    does not change when they move."""

    folder: Path
    report: Report
    models: dict[str, Path]

    @property
    def name(self) -> str:
        """The model's."""
        return self.report.source.name

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What made tokens of the samples."""
        samples = self.report.samples
        return Tokenizer(samples.tokenizer, samples.max_tokens) if samples.tokenizer else None

    def samples(self) -> str:
        """The file of samples that the forms were compared with. Raises `SetupError` where it is not there any more."""
        samples = self.report.samples
        mend = "name what to send with --inputs: a file, random or zeros"
        try:
            digest = hashlib.sha256(Path(samples.path).read_bytes()).hexdigest()
        except OSError as error:
            raise SetupError(
                f"{samples.path}, the samples of forebay optimize, cannot be read: {error.strerror or error}; {mend}"
            ) from None
        if digest != samples.sha256:
            raise SetupError(
                f"{samples.path} is not what it was when forebay optimize took its samples from it; {mend}"
            )
        return samples.path

    def put_first(self, candidate: str) -> Path:
        """This form is served from now on. Returns the folder of its model. Raises `SetupError`."""
        return choose(self.folder, self.report, candidate)


def forms_of(text: str) -> Forms | None:
    """The forms in a folder that `forebay optimize` has written; None for anything else. Raises `SetupError`."""
    folder = Path(text)
    report = report_in(folder) if folder.is_dir() else None
    if report is None:
        return None
    models = forms_in(folder, report)
    if not models:
        raise SetupError(
            f"{text} holds the report of a search in which no candidate passed, and nothing to serve; tune the model "
            f"itself: {report.source.path}"
        )
    speeds = {one.name: one.speed.speedup for one in [report.original, *report.candidates] if one.speed is not None}
    order = sorted(models, key=lambda name: (-speeds.get(name, 0.0), name))
    return Forms(folder, report, {name: models[name] for name in order})
