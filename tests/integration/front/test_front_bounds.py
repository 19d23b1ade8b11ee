"""Requests and templates that exceed a real server's bounds: refused, without delay for other requests."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from tests.unit.front import kinds
from trtbuild.repository import ServedModel, write_repository

LOOP = "{% if messages[0].content == 'loop' %}"
LOOP += "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two models on the stand-in engine: one whose template loops, one whose template does not compile."""
    workspace = tmp_path_factory.mktemp("bounds")
    record = workspace / "engine.jsonl"
    models = []
    for name, template in (("chat", LOOP + kinds.TEMPLATE), ("broken", "{% nothing %}")):
        directory = workspace / f"tokenizer-{name}"
        directory.mkdir()
        model = ServedModel(
            served_name=name,
            engine_template=standin(4, 0.01, record),
            engine_info=engine_info(4),
            tokenizer_dir=kinds.write_directory(directory, chat_template=template),
            max_queue_size=64,
        )
        models.append(model)
    with serve(write_repository(workspace / "repository", models), workspace, record) as running:
        yield running


def _front_memory_bytes() -> int:
    """Return the largest resident size that a model process of this machine's servers of ours has now."""
    sizes = [0]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if "python_backend_stub" in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    sizes += [
                        int(line.split()[1]) * 1024
                        for line in (entry / "status").read_text().splitlines()
                        if line.startswith("VmRSS")
                    ]
            except OSError:
                continue
    return max(sizes)


def test_oversized_prompts_are_refused_and_delay_no_other_request(hostile: RunningServer) -> None:
    hostile.generate(text_input="Hi", max_tokens=1)
    before = _front_memory_bytes()
    answers: list[tuple[int, str]] = []

    def ask(size: int) -> None:
        answers.append(hostile.post("chat/generate", {"text_input": "a " * (size // 2), "max_tokens": 2}))

    threads = [threading.Thread(target=ask, args=(size,)) for size in (8_000_000, 8_000_000, 30_000_000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        hostile.generate(text_input="Hi", max_tokens=1)
        assert time.monotonic() - began < 20
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in answers) == [400, 400, 400]
    assert all("bytes" in text and "at most" in text for _, text in answers)
    assert _front_memory_bytes() - before < 150_000_000


def test_a_looping_template_ends_its_own_request_only(hostile: RunningServer) -> None:
    answers: list[tuple[int, str]] = []
    body = {"messages": json.dumps([{"role": "user", "content": "loop"}]), "max_tokens": 2}
    threads = [threading.Thread(target=lambda: answers.append(hostile.post("chat/generate", body))) for _ in range(12)]
    for thread in threads:
        thread.start()
    served = 0
    while any(thread.is_alive() for thread in threads):
        assert hostile.generate(text_input="Hi", max_tokens=1)["completion_tokens"] == 1
        served += 1
    for thread in threads:
        thread.join()
    assert served > 4
    assert [status for status, _ in answers] == [400] * 12
    reasons = ("the model's chat template took more than", "UNAVAILABLE: messages: no time for the chat template")
    counts = [sum(reason in text for _, text in answers) for reason in reasons]
    assert counts[0] >= 2 and sum(counts) == 12, answers
    hello = json.dumps([{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    as_text = json.dumps([{"role": "user", "content": "hello"}])
    counts = [hostile.generate(messages=m, max_tokens=1)["prompt_tokens"] for m in (hello, as_text)]
    assert counts[0] == counts[1]


def test_a_template_that_does_not_compile_costs_messages_only(hostile: RunningServer) -> None:
    assert hostile.generate("broken", text_input="Hi", max_tokens=1)["completion_tokens"] == 1
    status, text = hostile.post("broken/generate", {"messages": '[{"role": "user", "content": "Hi"}]'})
    assert status == 400
    assert "not valid Jinja: Encountered unknown tag 'nothing'" in text
    assert "messages are refused, text_input works" in hostile.log_path.read_text()


def _front_processor_s(running: RunningServer) -> float:
    """Return the processor time that the process of ``chat`` has taken."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ticks = (entry / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        if "python_backend_stub" in argv[0] and argv[1].startswith(f"{running.record.parent}/") and "/chat/" in argv[1]:
            return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("no process of the model")


def test_millions_of_strings_and_megabytes_of_parameters_are_not_read(hostile: RunningServer) -> None:
    """Processor time, since it does not depend on who else is at work: reading the strings takes 3 s."""
    hostile.generate(text_input="Hi", max_tokens=1)
    before = _front_processor_s(hostile)
    status, text = hostile.post("chat/generate", {"text_input": "a", "stop_words": [""] * 4_000_000})
    assert (status, json.loads(text)["error"]) == (400, "stop_words: expected at most 256 strings, got 4000000")
    status, text = hostile.post("chat/generate", {"text_input": "a", "typo": "x" * 8_000_000})
    assert status == 400
    assert "parameters: expected at most 65536 bytes" in text
    assert _front_processor_s(hostile) - before < 1.0
    assert hostile.generate(text_input="Hi", stop_words=["zzz"], max_tokens=1)["completion_tokens"] == 1
