"""The pages that list error codes, metrics and log fields list all of them, as they are."""

from __future__ import annotations

import re
from pathlib import Path

from forebay.api.problems import STATUSES
from forebay.client.errors import RETRYABLE
from forebay.telemetry.cache_metrics import CACHE_TABLE
from forebay.telemetry.cascade_metrics import CASCADE_TABLE
from forebay.telemetry.job_metrics import JOB_TABLE
from forebay.telemetry.logs import FIELD_NAMES
from forebay.telemetry.metrics import TABLE
from forebay.telemetry.request_log_metrics import REQUEST_LOG_TABLE
from forebay.telemetry.semantic_metrics import SEMANTIC_TABLE
from forebay.telemetry.variant_metrics import VARIANT_TABLE

DOCS = Path(__file__).parents[3] / "docs"


def test_every_error_code_has_its_status_and_whether_to_try_again() -> None:
    rows = re.findall(r"\| `(\w+)` \| (\d+) \| .+? \| (no|yes)", (DOCS / "errors.md").read_text())
    assert {code: int(status) for code, status, _ in rows} == STATUSES
    assert {code for code, _, again in rows if again == "yes"} == RETRYABLE


def test_every_metric_has_its_kind_labels_and_meaning() -> None:
    rows = re.findall(r"\| `(forebay_\w+)` \| (\w+) \| (.*?) \| (.+) \|", (DOCS / "metrics.md").read_text())
    found = {name: (kind, text, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, text in rows}
    tables = (TABLE, JOB_TABLE, CACHE_TABLE, SEMANTIC_TABLE, CASCADE_TABLE, VARIANT_TABLE, REQUEST_LOG_TABLE)
    assert found == {
        name: (kind, text, tuple(labels)) for table in tables for name, (kind, text, labels) in table.items()
    }


def test_every_field_of_a_log_line_is_listed() -> None:
    section = (DOCS / "metrics.md").read_text().split("## Log lines")[1]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == FIELD_NAMES
