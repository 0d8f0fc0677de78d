"""Frames: what is packed comes back, however the stream is cut; a broken peer is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import frames
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import ModelSource

Frame = tuple[int, bytes, bytes]


def read(reader: frames.FrameReader, data: bytes) -> list[Frame]:
    return [(kind, header, bytes(payload)) for kind, header, payload in reader.feed(data)]


def three_frames() -> tuple[bytes, list[Frame]]:
    run = frames.RunHeader(7, 3, [1, 2], [frames.InputPart([(4,), (2,)], 5, -1)])
    done = frames.DoneHeader(7, 0.25, [frames.OutputPart([3, 1], 0, 64)])
    failed = frames.FailedHeader(8, 0.5, "model_error", "what went wrong: ünïcode")
    stream = frames.pack(frames.RUN, run, [b"ab", bytearray(b"c"), memoryview(b"de")])
    stream += frames.pack(frames.DONE, done) + frames.pack(frames.FAILED, failed)
    encode = msgspec.msgpack.encode
    return stream, [
        (frames.RUN, encode(run), b"abcde"),
        (frames.DONE, encode(done), b""),
        (frames.FAILED, encode(failed), b""),
    ]


def test_a_stream_cut_at_every_offset_gives_the_same_frames() -> None:
    stream, expected = three_frames()
    for at in range(len(stream) + 1):
        reader = frames.FrameReader()
        assert read(reader, stream[:at]) + read(reader, stream[at:]) == expected


def test_a_stream_byte_by_byte() -> None:
    stream, expected = three_frames()
    reader = frames.FrameReader()
    assert [frame for byte in stream for frame in read(reader, bytes([byte]))] == expected


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_any_payloads_in_any_pieces(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames.pack(frames.RUN, index, [payload]) for index, payload in enumerate(payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = frames.FrameReader()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += read(reader, stream[start:stop])
    assert [(msgspec.msgpack.decode(header), payload) for _, header, payload in found] == list(enumerate(payloads))


def test_payloads_stay_valid_and_can_be_written_to() -> None:
    reader = frames.FrameReader()
    ((_, _, first),) = reader.feed(frames.pack(frames.RUN, None, [b"first"]))
    ((_, _, second),) = reader.feed(frames.pack(frames.RUN, None, [b"second"]))
    first[0:1] = b"F"
    assert (bytes(first), bytes(second)) == (b"First", b"second")


@pytest.mark.parametrize("length", [frames.MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_is_refused_before_anything_is_gathered(length: int) -> None:
    with pytest.raises(ValueError, match="not a frame"):
        frames.FrameReader().feed(frames.HEAD.pack(length, frames.RUN, 1))


def test_a_header_longer_than_its_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="not a frame"):
        frames.FrameReader().feed(frames.HEAD.pack(4, frames.RUN, 5) + b"abcd")


def test_the_largest_length_is_waited_for() -> None:
    assert frames.FrameReader().feed(frames.HEAD.pack(frames.MAX_FRAME_BYTES, frames.RUN, 1) + b"x") == []


def test_too_much_for_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    assert frames.pack(frames.RUN, None, [b"x" * 99])
    with pytest.raises(ValueError, match="above the limit of 100"):
        frames.pack(frames.RUN, None, [b"x" * 50, b"y" * 50])


def test_headers_round_trip() -> None:
    source = ModelSource("m", "python", "/m.py", "M")
    load = frames.LoadHeader(source, "cuda:1", 2, 64, 1.5, 4096, 100)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(load), type=frames.LoadHeader) == load
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "BYTES", ()),))
    ready = frames.ReadyHeader("python", signature, {"threads": 2}, "d1", True, "", [(1, 0, 0.001), (2, 0, 0.002)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ready), type=frames.ReadyHeader) == ready


def test_the_frames_of_a_stream_come_back_as_they_were() -> None:
    piece = frames.PieceHeader(7, [0, 2], [1], [frames.OutputPart([2, 3], 24, -1)])
    said = [
        (frames.CANCEL, frames.CancelHeader(7, [1, 2])),
        (frames.PIECE, piece),
        (frames.ENDED, frames.PieceHeader(7, [1], [0, 1], [frames.OutputPart([1], 4, -1)] * 2)),
        (frames.PROGRESS, frames.ProgressHeader(7, [0], 0.5)),
        (frames.CLOSED, frames.ClosedHeader(7, 0.25, True)),
        (frames.RUN, frames.RunHeader(8, 1, [], [], [0])),
    ]
    reader = frames.FrameReader()
    for kind, header in said:
        ((got, encoded, payload),) = reader.feed(frames.pack(kind, header, [b"abc"]))
        assert (got, bytes(payload)) == (kind, b"abc")
        assert msgspec.msgpack.decode(encoded, type=type(header)) == header
    assert {frames.PIECE, frames.PROGRESS, frames.ENDED, frames.CLOSED} == frames.STREAMED
