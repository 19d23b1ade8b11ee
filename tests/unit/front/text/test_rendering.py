"""Chat templates are untrusted programs: bounded in time and memory, without effect on other requests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trtbuild_front import limits
from trtbuild_front.faults import BusyError, OverloadError, RequestError
from trtbuild_front.text import rendering
from trtbuild_front.text.rendering import Renderers

MESSAGES = json.dumps([{"role": "user", "content": "Hi"}])
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SLOW_IF_ASKED = "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}" + PLAIN
LOOPING = json.dumps([{"role": "user", "content": "loop"}])


@pytest.fixture(autouse=True)
def _one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "RENDER_S", 1.0)


@pytest.fixture
def slow() -> Iterator[Renderers]:
    renderers = Renderers(SLOW_IF_ASKED, {})
    yield renderers
    renderers.close()


def _processes() -> set[int]:
    """Return the renderers that are children of this process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if fields[1] == str(os.getpid()) and fields[0] != "Z" and b"renderer.py" in line:
                found.add(int(entry.name))
    return found


def _is_refused(renderers: Renderers, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        renderers.render(LOOPING, 1000)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(LOOP, id="nested-loops"),
        pytest.param("{{ 'a' * 10**12 }}", id="constant-string"),
        pytest.param("{{ messages[0].content * 10**12 }}", id="string"),
        pytest.param("{{ 10 ** (10 ** 9) }}", id="power-at-compile-time"),
        pytest.param("{{ (messages | length + 9) ** (10 ** 9) }}", id="power-in-C"),
        pytest.param("{{ (messages[0].content * 10**8) | replace('H', 'aaaaaaaaaaaaaaaaaaaa') }}", id="filter"),
        pytest.param("{{ messages[0].content.ljust(10**12) }}", id="method"),
        pytest.param("{{ '%010000000000d' | format(messages | length) }}", id="printf"),
        pytest.param("{{ '{:>99999999999}'.format(messages | length) }}", id="format"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", id="recursion"),
        pytest.param("{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", id="output"),
        pytest.param("{{ range(10**9) | list }}", id="range"),
        pytest.param("{{ lipsum(n=99999999) }}", id="lipsum"),
        pytest.param("{{ [1] * 10**9 }}", id="list"),
        pytest.param("{{ ''.__class__.__mro__ }}", id="sandbox"),
        pytest.param("{{ messages[0].content.foo.bar }}", id="undefined"),
        pytest.param("{{ messages[0].content + 1 }}", id="type"),
        pytest.param("{{ 1 // 0 }}", id="zero"),
        pytest.param("{{ raise_exception('no') }}", id="raise_exception"),
        pytest.param("x" * (limits.MAX_TEMPLATE_BYTES + 1), id="huge-template"),
    ],
)
def test_a_hostile_template_is_refused_within_its_bounds(source: str) -> None:
    renderers = Renderers(source, {})
    began = time.monotonic()
    try:
        with pytest.raises(RequestError, match=r"^messages: ") as refusal:
            renderers.render(MESSAGES, 1 << 20)
    finally:
        renderers.close()
    assert time.monotonic() - began < 60
    assert "Error(" not in str(refusal.value)
    assert not _processes()


def test_looping_conversations_hold_up_no_other(slow: Renderers) -> None:
    loops = [threading.Thread(target=_is_refused, args=(slow, RequestError)) for _ in range(2)]
    for thread in loops:
        thread.start()
    answers = 0
    while any(thread.is_alive() for thread in loops):
        assert slow.render(MESSAGES, 1000) == "<user>Hi"
        answers += 1
    assert answers > 3
    for thread in loops:
        thread.join()
    assert slow.render(MESSAGES, 1000) == "<user>Hi"
    assert 1 <= len(_processes()) <= limits.MAX_RENDERERS


def test_however_many_are_slow_an_ordinary_conversation_is_rendered(
    slow: Renderers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "RENDER_S", 60.0)
    refusals: list[Exception] = []

    def loop() -> None:
        try:
            slow.render(LOOPING, 1000)
        except (OverloadError, RequestError) as error:
            refusals.append(error)

    loops = [threading.Thread(target=loop) for _ in range(4 * limits.MAX_RENDERERS)]
    for thread in loops:
        thread.start()
    while not any(isinstance(error, OverloadError) for error in refusals):
        time.sleep(0.01)
    assert slow.render(MESSAGES, 1000) == "<user>Hi"
    for thread in loops:
        thread.join(120)
    by_kind = {kind: [str(one) for one in refusals if isinstance(one, kind)] for kind in (OverloadError, RequestError)}
    assert len(refusals) == len(loops)
    assert 2 <= len(by_kind[RequestError]) < len(loops) / 2
    for refusal in by_kind[OverloadError]:  # 0.1 s once eight of them were slow
        assert re.search(r"took more than 0\.(25|1) s while 2 others did; send the request again", refusal)
    assert any("0.1 s" in refusal for refusal in by_kind[OverloadError])
    assert all(isinstance(one, BusyError) for one in refusals if isinstance(one, OverloadError))
    assert slow.render(MESSAGES, 1000) == "<user>Hi"


def test_a_renderer_that_was_not_given_its_time_is_the_machine_s_fault(slow: Renderers) -> None:
    """Stopped, it uses no processor time: the conversation may be fine, so the client may send it again."""
    assert slow.start() == ""
    for number in _processes():
        os.kill(number, signal.SIGSTOP)
    with pytest.raises(BusyError, match="took more than"):
        slow.render(MESSAGES, 1000)
    assert slow.render(MESSAGES, 1000) == "<user>Hi"


def test_a_renderer_that_was_killed_is_replaced(slow: Renderers) -> None:
    assert slow.start() == ""
    for number in _processes():
        os.kill(number, signal.SIGKILL)
    time.sleep(0.1)
    assert slow.render(MESSAGES, 1000) == "<user>Hi"


def test_closing_ends_the_busy_ones_too(slow: Renderers) -> None:
    thread = threading.Thread(target=_is_refused, args=(slow, OverloadError))
    thread.start()
    while not slow._busy:
        time.sleep(0.01)
    slow.close()
    thread.join(30)
    assert not thread.is_alive()
    assert not _processes()
    with pytest.raises(OverloadError, match="shutting down"):
        slow.render(MESSAGES, 1000)


def test_a_renderer_ends_with_whoever_started_it() -> None:
    shared = Path(rendering.__file__).parents[2]
    program = (
        f"import sys, threading, time; sys.path[:0] = [{str(shared)!r}]\n"
        "from trtbuild_front.text.rendering import Renderers\n"
        f"r = Renderers({SLOW_IF_ASKED!r}, {{}}); r.start(); r.render({MESSAGES!r}, 99)\n"
        f"threading.Thread(target=r.render, args=({LOOPING!r}, 99)).start()\n"
        f"time.sleep(0.2); r.start()\n"
        "print(*[p._process.pid for p in (*r._busy, *r._idle)], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    numbers = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(numbers) == 2  # one idle, one in its loop
    deadline = time.monotonic() + 30
    while any(
        Path(f"/proc/{number}/cmdline").exists() and Path(f"/proc/{number}/cmdline").read_bytes() for number in numbers
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_an_interpreter_only_messages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTBUILD_PYTHON", "/nonexistent/python3")
    renderers = Renderers(PLAIN, {})
    assert "no process could be started for the chat template" in renderers.start()
    with pytest.raises(OverloadError, match=r"messages: no process could be started.*/nonexistent/python3"):
        renderers.render(MESSAGES, 1000)
    monkeypatch.undo()
    assert renderers.render(MESSAGES, 1000) == "<user>Hi"
    renderers.close()


def test_a_renderer_sees_no_secrets(monkeypatch: pytest.MonkeyPatch, slow: Renderers) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted")
    slow.start()
    (number,) = _processes()
    assert b"planted" not in Path(f"/proc/{number}/environ").read_bytes()


def test_large_conversations_go_through_whole(slow: Renderers) -> None:
    content = "é" * 2_000_000
    messages = json.dumps([{"role": "user", "content": content}])
    assert slow.render(messages, 5_000_000) == f"<user>{content}"
    with pytest.raises(RequestError, match="makes more than 1000 bytes"):
        slow.render(messages, 1000)
