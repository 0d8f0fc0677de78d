"""What a server that does not come up is said to have said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forebay.core.errors import SetupError
from forebay.tune.server import Server
from forebay.tune.world import CannotServeError


@pytest.mark.parametrize("code", SetupError.CODES)
def test_the_reason_is_without_the_code_which_whoever_reports_it_says(tmp_path: Path, code: str) -> None:
    script = f"import sys; print('starting'); print('error: model x: its file is no ONNX ({code})'); sys.exit(2)"
    with pytest.raises(CannotServeError) as raised:
        Server([sys.executable, "-c", script], tmp_path, 30.0)
    assert str(raised.value) == "the server ended with code 2: model x: its file is no ONNX"
