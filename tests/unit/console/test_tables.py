"""Tables and paragraphs: nothing is lost at any width, and nothing is folded where no terminal is."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.console.tables import blocks, fold, table_width


@pytest.mark.parametrize(
    ("widths", "width", "expected"),
    [
        pytest.param([3, 3, 3], None, [[0, 1, 2]], id="no-terminal"),
        pytest.param([3, 3, 3], 13, [[0, 1, 2]], id="just-fits"),
        pytest.param([3, 3, 3], 12, [[0, 1], [0, 2]], id="one-too-narrow"),
        pytest.param([30, 3, 3], 10, [[0, 1], [0, 2]], id="first-column-too-wide"),
        pytest.param([3], 1, [[0]], id="one-column"),
    ],
)
def test_columns_that_do_not_fit_follow_below(widths: list[int], width: int | None, expected: list[list[int]]) -> None:
    assert blocks(widths, width) == expected


def test_the_width_of_a_table_is_its_longest_line() -> None:
    assert table_width([("a", "bb"), ("ccc", "d")]) == len("ccc  bb")


def test_text_off_a_terminal_is_one_line() -> None:
    assert fold("word " * 100, None) == ["word " * 100]


def test_aligned_text_stays_aligned_and_goes_on_below_its_column() -> None:
    assert fold("key      one two three", 16, indent=9) == ["key      one two", "        three"]
    assert fold("key      one two three", 18, indent=9) == ["key      one two", "         three"]


@given(words=st.lists(st.text("abc-/", min_size=1, max_size=12), max_size=20), width=st.integers(1, 60))
def test_folding_loses_no_word_and_keeps_to_the_width(words: list[str], width: int) -> None:
    lines = fold(" ".join(words), width, indent=4)
    assert " ".join(lines).split() == words
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


def _show(columns: int, *arguments: str) -> list[str]:
    """Return the lines that a command writes to a terminal of so many columns."""
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "trtbuild", *arguments]
    child = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main_end, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main_end)
    assert child.wait() == 0
    return shown.decode().splitlines()


@pytest.mark.parametrize("columns", [80, 140, 200])
def test_the_table_of_products_fits_the_terminal_and_holds_every_fact(columns: int) -> None:
    asked = ["plan", "llama-3-70b-instruct", "--gpu", "all"]
    piped = subprocess.run(
        [sys.executable, "-m", "trtbuild", *asked, "--format", "json"], capture_output=True, text=True, check=True
    )
    lines = _show(columns, *asked)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    skus = [sku for sku in json.loads(piped.stdout)["skus"] if any(sku["fits"].values())]
    assert len(skus) > 10
    for sku in skus:
        rows = " ".join(line for line in lines if line.split()[:1] == [sku["product"]])
        for fit in filter(None, sku["fits"].values()):
            exact = f"{fit['tp_size']}x{fit['pp_size']} {fit['kv_tokens']:,}"
            short = f"{fit['tp_size']}x{fit['pp_size']} {fit['kv_tokens'] // 1000:,}k"
            assert (short if "thousands of tokens" in " ".join(text.split()) else exact) in rows
        assert f"{sku['disk_bytes'] / (1 << 30):.1f} GiB" in rows
    assert ("thousands" in text) == (columns < 200)


def test_the_table_of_products_is_whole_where_no_terminal_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trtbuild", "plan", "llama-3-70b", "--gpu", "all"], capture_output=True, text=True,
        check=True, env={**os.environ, "COLUMNS": "40"},
    )  # fmt: skip
    rows = [line for line in done.stdout.splitlines() if line.startswith("NVIDIA-")]
    assert len(rows) > 10
    assert len(rows) == len({row.split()[0] for row in rows}), "one row each"
    assert all(re.search(r"\d+x\d+ \d{1,3},\d{3} .* GiB$", row) for row in rows)
