"""Server-sent events: the examples of the specification, and streams cut anywhere.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.client.event_source import EventSource, ServerSentEvent

Event = tuple[str, bytes, str]

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\nretry: 1500\n\nid: 1\nevent: status\ndata: {}\n\ndata:a\rdata: b\r\rid: 2\r\n"
    b'data: {"x": "\xe2\x80\xa8"}\r\n\r\n: keep-alive\n\nevent: x\n\ndata\n\nid:\ndata:  c\n\n'
)
TOLD: list[Event] = [
    ("status", b"{}", "1"),
    ("message", b"a\nb", "1"),
    ("message", b'{"x": "\xe2\x80\xa8"}', "2"),
    ("message", b"", "2"),
    ("message", b" c", ""),
]


def told(*pieces: bytes) -> list[Event]:
    source = EventSource()
    return [(event.kind, event.data, event.id) for piece in pieces for event in source.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", b"YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", b"first event", "1"), ("message", b"second event", ""), ("message", b" third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", b"", ""), ("message", b"\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", b"test", ""), ("message", b"test", "")]),
        (b"event: a\ndata: 1\n\ndata: 2\n\n", [("a", b"1", ""), ("message", b"2", "")]),
        (b"id: 1\x002\nid: 7\nid: 8\x00\ndata: x\n\n", [("message", b"x", "7")]),
        (b"nonsense\nDATA: x\n data: y\ndata: z: 1\n\n", [("message", b"z: 1", "")]),
        (b"data: never ended", []),
        (b"data: never ended\n", []),
        (b"\r\r\n\n", []),
    ],
)
def test_the_specification(stream: bytes, events: list[Event]) -> None:
    assert told(stream) == events


def test_it_is_the_same_wherever_it_is_cut() -> None:
    assert told(STREAM) == TOLD
    for at in range(len(STREAM) + 1):
        assert told(STREAM[:at], STREAM[at:]) == TOLD, STREAM[:at]
    assert told(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == TOLD


@given(st.lists(st.sampled_from([b"data: ab", b"id: 1", b"event: e", b"", b":"]), max_size=12), st.data())
def test_every_kind_of_line_end_cuts_lines(lines: list[bytes], data: st.DataObject) -> None:
    wanted = told(b"".join(line + b"\n" for line in lines))
    ends = [data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) for _ in lines]
    # A CR before an empty line that ends with LF would be one line end.
    stream = b"".join(
        line + (b"\r\n" if end == b"\r" and index + 1 < len(lines) and not lines[index + 1] else end)
        for index, (line, end) in enumerate(zip(lines, ends, strict=True))
    )
    at = data.draw(st.integers(0, len(stream)))
    assert told(stream[:at], stream[at:]) == wanted


@pytest.mark.parametrize(
    ("line", "retry_s"),
    [(b"retry: 2000", 2.0), (b"retry:0", 0.0), (b"retry: -1", None), (b"retry: 1.5", None), (b"retry", None)],
)
def test_when_to_come_back(line: bytes, retry_s: float | None) -> None:
    source = EventSource()
    assert list(source.feed(line + b"\n")) == []
    assert source.retry_s == retry_s
    list(source.feed(b"retry: " + b"9" * 100 + b"\n"))
    assert source.retry_s == retry_s


def test_an_event_of_megabytes_in_small_pieces_is_searched_once() -> None:
    data = b"x" * (4 << 20)
    stream = b"data: " + data + b"\n\n"
    source = EventSource()
    found: list[ServerSentEvent] = []
    for at in range(0, len(stream), 1024):
        found += source.feed(stream[at : at + 1024])
    assert [event.data for event in found] == [data]
