"""The report: one JSON that reads back, one page that needs nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import pytest
from tests.unit.optimize.test_gate import ORIGINAL, measured

from forebay.optimize.html import page
from forebay.optimize.output import encoded
from forebay.optimize.report import (
    CandidateReport,
    Goals,
    LayerError,
    MachineReport,
    Report,
    SampleReport,
    SourceReport,
    WorstSample,
    read_report,
)
from forebay.optimize.svg import Point, scatter


def report() -> Report:
    passed = measured(
        "static-int8",
        layers=[
            LayerError(name="layer.one", kind="MatMul", error=0.2, excluded=True),
            LayerError(name="layer.two", kind="MatMul", error=0.1, excluded=False),
        ],
        worst=[
            WorstSample(sample=3, shown="<b>a & b</b>", error=0.2, original=[1.0], candidate=[1.2]),
        ],
    )
    crashed = CandidateReport(
        name="broken", meaning="", runtime="onnx", reason="crashed", detail="ended by <SIGABRT>", model_sha256="ab" * 32
    )
    return Report(
        started_at="2026-01-01T00:00:00+00:00",
        seconds=12.5,
        source=SourceReport(name="net", path="net.onnx", kind="onnx", sha256="cd" * 32),
        samples=SampleReport(
            path="s.npz", sha256="ef" * 32, calibration=10, held_out=10, labelled=False, seed=0, head=""
        ),
        goals=Goals(metric="cosine", max_drop=0.001),
        machine=MachineReport(
            processor="a cpu", isa=("x86_64", "avx2"), cores=2, threads=1, versions={"onnxruntime": "1"}
        ),
        output="y",
        original=ORIGINAL,
        candidates=[passed, crashed],
        chosen="static-int8",
    )


def test_a_report_reads_back_as_it_was_written() -> None:
    assert read_report(encoded(report())) == report()


def test_a_report_of_another_format_is_refused() -> None:
    other = msgspec.structs.replace(report(), format=7)
    with pytest.raises(ValueError, match="format 7"):
        read_report(encoded(other))
    with pytest.raises(ValueError, match="reason"):
        read_report(encoded(report()).replace(b'"crashed"', b'"bored"'))


def test_the_page_holds_everything_and_loads_nothing() -> None:
    html = page(report())
    for told in ("static-int8", "layer.one", "crashed", "avx2", "cd" * 32, "ab" * 32, "onnxruntime 1", "<svg"):
        assert told in html
    assert not re.search(r"<script|<link|<img|@import|url\(|\bsrc=", html)
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {"http://www.w3.org/2000/svg"}


def test_plots_are_well_formed_and_keep_the_points_inside() -> None:
    plots = re.findall(r"<svg.*?</svg>", page(report()), re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        root = ElementTree.fromstring(plot)
        _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width
            assert 0 <= float(circle.attrib["cy"]) <= height


def test_names_of_points_that_lie_together_do_not_cover_each_other() -> None:
    points = [Point(f"static-int8-{number}", 2.0 + number / 50, 7e-4, passed=True, chosen=False) for number in range(6)]
    plot = ElementTree.fromstring(scatter(points, 1e-3, 1.03, "drop"))
    names = [one for one in plot.iter("{http://www.w3.org/2000/svg}text") if (one.text or "").startswith("static")]
    places = [(float(one.attrib["x"]), float(one.attrib["y"])) for one in names]
    assert len(places) == 6
    for index, (x, y) in enumerate(places):
        assert 0 <= x <= 760 - 6 * len("static-int8-0")
        assert all(abs(y - other) >= 12 or abs(x - left) >= 80 for left, other in places[:index])


def test_what_came_from_samples_and_libraries_is_shown_as_text() -> None:
    html = page(report())
    assert "<b>a & b</b>" not in html
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in html
    assert "<SIGABRT>" not in html


def test_the_page_of_a_search_in_vain_says_so() -> None:
    html = page(msgspec.structs.replace(report(), chosen=None))
    assert "No candidate passed the gate" in html
