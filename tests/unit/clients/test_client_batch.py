"""The batch's parts: input lines, the journal, scores, pauses."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.errors import SpecError
from trtclient.batch.items import Defaults, Entry, Input, key_of, parse_line
from trtclient.batch.journal import Journal
from trtclient.batch.run import LONGEST_PAUSE_S, Tally, pause_s
from trtclient.batch.scoring import interval, last_number, score

DEFAULTS = Defaults(model="m", max_tokens=32, parameters={"temperature": 0.5})


def parse(row: Any, defaults: Defaults = DEFAULTS) -> Entry:
    return parse_line(json.dumps(row).encode(), 7, Path("in.jsonl"), defaults)


def test_lines() -> None:
    entry = parse({"id": 3, "text": "x", "max_tokens": 5, "parameters": {"top_k": 1}, "reference": 4, "extra": []})
    assert (entry.id, entry.references) == ("3", ("4",))
    assert (entry.request.text, entry.request.max_tokens) == ("x", 5)
    assert entry.request.parameters == {"temperature": 0.5, "top_k": 1}
    assert parse({"prompt": "x"}).id == "7", "its number"
    assert parse({"text_input": "x", "reference": ["a", "b"]}).references == ("a", "b")


def test_openais_batch_lines() -> None:
    body = {
        "model": "other",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 9,
        "top_p": 0.5,
        "stream": True,
    }
    entry = parse({"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert (entry.id, entry.request.max_tokens) == ("r1", 9)
    assert entry.request.messages == ({"role": "user", "content": "x"},)
    assert entry.request.parameters == {"temperature": 0.5, "top_p": 0.5}


def test_a_system_message_makes_prompts_questions() -> None:
    defaults = Defaults(model="m", max_tokens=1, system="be brief")
    system, user = {"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}
    assert parse({"text": "x"}, defaults).request.messages == (system, user)
    assert parse({"messages": [user]}, defaults).request.messages == (system, user)
    own = {"role": "system", "content": "own"}
    assert parse({"messages": [own, user]}, defaults).request.messages == (own, user)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param("nope", "not JSON", id="json"),
        pytest.param("[1]", "expected an object, got list", id="list"),
        pytest.param('{"id": 1}', "got 0", id="nothing"),
        pytest.param('{"text": "a", "messages": []}', "expected one of", id="both"),
        pytest.param('{"text": 4}', "as text, got int", id="number"),
        pytest.param('{"messages": ["x"]}', "role and content", id="messages"),
        pytest.param('{"text": "a", "parameters": 3}', "parameters as an object", id="parameters"),
    ],
)
def test_wrong_lines_are_named(raw: str, why: str) -> None:
    with pytest.raises(SpecError, match=rf"in\.jsonl, line 7: .*{why}"):
        parse_line(raw.encode(), 7, Path("in.jsonl"), DEFAULTS)


def test_the_key_is_all_that_decides_the_answer() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "x"}, {"text": "y"}, {"text": "x", "max_tokens": 5}, {"text": "x", "parameters": {"seed": 1}},
        {"messages": [{"role": "user", "content": "x"}]},
    ]  # fmt: skip
    keys = [key_of(parse(row).request, "m") for row in rows] + [key_of(parse(rows[0]).request, "n")]
    assert len(set(keys)) == len(keys)
    assert key_of(parse({"text": "x", "id": 9, "reference": "z"}).request, "m") == keys[0]


def test_inputs(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "é"}\n\n{"id": "b", "text": "2"}\n{"id": "c", "text": "3"}')
    source = Input(path, DEFAULTS)
    assert [item.id for item in source.items] == ["1", "b", "c"]
    assert [source.read(item).request.text for item in reversed(source.items)] == ["3", "2", "é"]
    source.close()
    shards = [Input(path, DEFAULTS, shard=(index, 2)) for index in (0, 1)]
    assert [[item.id for item in shard.items] for shard in shards] == [["1", "c"], ["b"]]
    for shard in shards:
        shard.close()
    path.write_text('{"id": "a", "text": "1"}\n{"id": "a", "text": "2"}\n')
    with pytest.raises(SpecError, match="line 2: the id 'a' is on line 1 too"):
        Input(path, DEFAULTS)
    path.write_text("\n")
    with pytest.raises(SpecError, match="no request"):
        Input(path, DEFAULTS)


def row(name: str, **values: Any) -> dict[str, Any]:
    return {"id": name, "key": f"k-{name}", "text": f"answer {name} é", **values}


def write(journal: Journal, *rows: dict[str, Any]) -> None:
    async def append() -> None:
        await asyncio.gather(*(journal.append(one) for one in rows))

    asyncio.run(append())


def test_a_journal_cut_at_any_byte_keeps_whole_records(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    journal = Journal(out)
    write(journal, row("a"), row("b", error={"kind": "server"}), row("c"))
    journal.close()
    raw = journal.path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(raw) if byte == 10]
    assert len(ends) == 3
    for cut in range(len(raw) + 1):
        journal.path.write_bytes(raw[:cut])
        again = Journal(out)
        assert list(again.records) == ["a", "b", "c"][: sum(end <= cut for end in ends)]
        assert again.had_torn_end is (cut not in {0, *ends})
        write(again, row("d"))
        assert again.read("d") == row("d")
        again.close()
        assert all(json.loads(line)["id"] in "abcd" for line in journal.path.read_text().splitlines())


def test_a_bad_line_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.journal").write_text(f"{json.dumps(row('a'))}\n\0\0\0\n{json.dumps(row('b'))}\n")
    journal = Journal(out)
    assert list(journal.records) == ["a", "b"]
    assert journal.read("b") == row("b")
    journal.close()


def test_a_journal_that_holds_nothing_is_not_left_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl")
    journal.close()
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path / "out.jsonl")
    journal.path.unlink()
    journal.path.write_text("another run's")
    journal.close()
    assert journal.path.read_text() == "another run's"


def test_the_result_replaces_the_journal_and_is_read_by_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    journal = Journal(out)
    write(journal, row("a"), row("a", text="later"), row("b", error={}))
    assert journal.read("a")["text"] == "later"
    journal.publish(journal.read(name) for name in ("b", "a"))
    journal.close()
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["b", "a"]
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]
    again = Journal(out)
    assert {name: found.is_ok for name, found in again.records.items()} == {"b": False, "a": True}
    again.close()


def test_two_runs_cannot_write_one_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl")
    with pytest.raises(SpecError, match="another run is writing"):
        Journal(tmp_path / "out.jsonl")
    journal.close()
    Journal(tmp_path / "out.jsonl").close()


@pytest.mark.parametrize(
    ("how", "answer", "references", "is_right"),
    [
        pytest.param("exact", " Paris\n", ["Paris"], True, id="exact"),
        pytest.param("exact", "paris", ["Paris"], False, id="exact-case"),
        pytest.param("exact", "b", ["a", "b"], True, id="any"),
        pytest.param("contains", "It is Paris.", ["Paris"], True, id="contains"),
        pytest.param("contains", "It is Rome.", ["Paris"], False, id="contains-not"),
        pytest.param("regex", "answer: 42", [r"answer:\s*\d+$"], True, id="regex"),
        pytest.param("numeric", "so 6 * 7 = 42.", ["#### 42"], True, id="numeric"),
        pytest.param("numeric", "$1,234.50", ["1234.5"], True, id="thousands"),
        pytest.param("numeric", "41", ["42"], False, id="numeric-not"),
        pytest.param("numeric", "none", ["42"], False, id="no-number"),
        pytest.param("exact", "x", [], False, id="no-reference"),
    ],
)
def test_scores(how: str, answer: str, references: list[str], is_right: bool) -> None:
    assert score(how, answer, references) is is_right


def test_numbers() -> None:
    assert [last_number(text) for text in ("-3", "1e3", "a .5 b", "3.", "x")] == [-3, 1000, 0.5, 3, None]


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_the_share(right: int, wrong: int) -> None:
    low, high = interval(right, right + wrong)
    assert 0 <= low <= (right / (right + wrong) if right + wrong else 0.5) + 1e-9
    assert (right / (right + wrong) if right + wrong else 0.5) - 1e-9 <= high <= 1


def test_pauses_grow_to_a_limit_and_respect_the_server() -> None:
    source = random.Random(0)
    longest = [max(pause_s(attempt, source) for _ in range(200)) for attempt in range(1, 30)]
    assert longest[0] <= 1.0 < longest[2]
    assert LONGEST_PAUSE_S * 0.9 < max(longest) <= LONGEST_PAUSE_S
    assert min(pause_s(1, source, 7.0) for _ in range(50)) >= 7.0
    assert len({pause_s(1, source) for _ in range(50)}) == 50, "no two clients come back together"


def test_the_summary() -> None:
    tally = Tally(total=10, reused=2, answered=5, scored=7, right=6, completion_tokens=50, elapsed_s=5.0)
    tally.failures["invalid"] += 1
    tally.retries["overloaded"] += 3
    text = tally.as_text()
    for part in ("7 of 10 requests answered, 2 of them by an earlier run, 2 left", "10.0 output tokens/s",
                 "repeated: overloaded 3", "failed: invalid 1", "right: 6 of 7 (85.7%"):  # fmt: skip
        assert part in text
    assert json.loads(json.dumps(tally.as_dict()))["accuracy"]["share"] == pytest.approx(6 / 7)
