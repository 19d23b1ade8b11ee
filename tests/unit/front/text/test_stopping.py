"""Stop strings across token borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.text.stopping import StopStrings

LETTERS = st.text("ab\n", max_size=12)


def _run(stops: list[str], parts: list[str]) -> tuple[list[str], bool]:
    scanner = StopStrings(stops)
    pieces = [scanner.feed(part) for part in parts]
    if not scanner.is_stopped:
        pieces.append(scanner.finish())
    return pieces, scanner.is_stopped


def _first_complete(stops: list[str], text: str) -> tuple[str, bool]:
    """The plain definition: read one character after another until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if found:
            return text[: end - max(len(stop) for stop in found)], True
    return text, False


@given(stops=st.lists(LETTERS, max_size=4), parts=st.lists(LETTERS, max_size=8))
def test_equals_the_plain_definition_however_cut(stops: list[str], parts: list[str]) -> None:
    pieces, is_stopped = _run(stops, parts)
    assert ("".join(pieces), is_stopped) == _first_complete(stops, "".join(parts))


@pytest.mark.parametrize(
    ("stops", "parts", "pieces", "is_stopped"),
    [
        pytest.param([], ["ab", "c"], ["ab", "c", ""], False, id="none"),
        pytest.param(["END"], ["one E", "N", "D two"], ["one ", "", ""], True, id="over-three-parts"),
        pytest.param(["END"], ["one E", "NX"], ["one ", "ENX", ""], False, id="false-alarm"),
        pytest.param(["END"], ["one EN"], ["one ", "EN"], False, id="half-at-the-end"),
        pytest.param(["abcd", "bc"], ["abc"], ["a"], True, id="the-one-complete-first"),
        pytest.param(["c", "abc"], ["abc"], [""], True, id="the-longest-of-those"),
        pytest.param(["x"], ["ax", "b"], ["a", ""], True, id="nothing-after-the-end"),
    ],
)
def test_examples(stops: list[str], parts: list[str], pieces: list[str], is_stopped: bool) -> None:
    assert _run(stops, parts) == (pieces, is_stopped)
