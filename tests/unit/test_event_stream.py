"""Server-sent events, however their bytes are cut, and without end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild import event_stream
from trtbuild.event_stream import EventParser


@given(st.lists(st.integers(1, 7), max_size=60))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    body = b'data: {"a": 1}\n\n: comment\nevent: x\ndata:two\r\ndata: lines\r\n\r\n\ndata: last\n\nrest'
    parser, events, at = EventParser(), [], 0
    for cut in [*cuts, len(body)]:
        events += parser.feed(body[at : at + cut])
        at += cut
    assert events == [b'{"a": 1}', b"two\nlines", b"last"]


@pytest.mark.parametrize("part", [b"v" * 100, b"data: x\n", b"data:\n", b"data: " + b"v" * 5000 + b"\n\n"])
def test_an_event_without_end_is_refused(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    parser = EventParser()
    if part.endswith(b"\n\n"):
        assert parser.feed(part) == [part[6:-2]], "what came whole is an event"
        return
    with pytest.raises(ValueError, match="over 1000 bytes"):
        for _ in range(1000):
            parser.feed(part)


def test_a_long_line_in_small_pieces_is_read_once() -> None:
    """Each piece is looked at once: 100,000 of them would take minutes if the line were copied every time."""
    parser = EventParser()
    for _ in range(100_000):
        parser.feed(b"v" * 40)
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: x\n\n") == [b"x"]
