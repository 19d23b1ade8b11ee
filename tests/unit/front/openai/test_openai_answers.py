"""From a request to its bytes, over the whole front model with a played engine and a real exchange."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtbuild_front.openai.api import Identity, TextApi
from trtbuild_front.openai.metrics_text import MetricsText
from trtbuild_http.exchange import Exchange, HttpRequest
from trtbuild_http.jsontext import dumps_text

from tests.unit.front.test_front_service import CONTRACT, WAIT_S, Stage, answer

OPENAI = replace(
    CONTRACT,
    inputs=CONTRACT.inputs | {"runtime_top_p", "runtime_top_k", "seed", "min_tokens", "return_perf_metrics"},
    outputs=CONTRACT.outputs | {"cum_log_probs"},
)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Channel:
    """A client that takes what it is sent."""

    def post(self) -> None:
        """Nothing waits for it."""


class Client:
    """One request and what came back."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        request = HttpRequest("POST", path, "", {}, json.dumps(body).encode(), "my-id")
        self.exchange = Exchange(request, Channel())
        self._data = b""
        self._is_over = False

    def read(self) -> bytes:
        """Wait for the end; return all bytes."""
        deadline = time.monotonic() + WAIT_S
        while not self._is_over:
            assert time.monotonic() < deadline, self._data
            self.peek()
            time.sleep(0.002)
        return self._data

    def peek(self) -> bytes:
        data, self._is_over = self.exchange.take() if not self._is_over else (b"", True)
        self._data += data
        return self._data

    def answer(self) -> tuple[int, Any]:
        head, _, body = self.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def header(self, name: str) -> str:
        lines = self.read().partition(b"\r\n\r\n")[0].decode().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name}:"))

    def events(self) -> list[Any]:
        found = [line[6:] for line in self.read().split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(data) if data != b"[DONE]" else "[DONE]" for data in found]


class Desk:
    """A front model with its API."""

    def __init__(self, directory: Path, slots: int = 4, max_waiting: int = 0) -> None:
        self.stage = Stage(directory, slots, max_waiting, OPENAI)
        service = self.stage.service
        metrics = MetricsText(
            service.accounting.snapshot, lambda: service.beat_s, labels={"model": "m", "version": "1"}, slots=slots
        )
        self.engine_fault = ""
        self.api = TextApi(
            Identity(name="m", model_id="org/M", engine_key="0123456789abcdef", created=7),
            self.stage.text,
            OPENAI,
            service,
            most_at_once=slots + max_waiting if max_waiting else 0,
            metrics=metrics.write,
            engine_fault=lambda: self.engine_fault,
        )

    def ask(self, path: str = COMPLETIONS, **body: Any) -> Client:
        if path == COMPLETIONS:
            body = {"prompt": "ab", "temperature": 0, **body}
        elif path == CHAT:
            body = {"messages": [{"role": "user", "content": "ab"}], "temperature": 0, **body}
        client = Client(path, body)
        self.api.routes[path](client.exchange, body)
        return client

    def tokens(self, text: str) -> list[int]:
        return self.stage.text.encode(text, adds_special_tokens=False)

    def say(self, call: int, *parts: list[int]) -> None:
        """Let the engine answer a call in parts, and end it."""
        self.stage.call(call)
        for part in parts:
            self.stage.engine.say(call, answer(*part))
        self.stage.engine.end(call)

    def outcomes(self) -> dict[str, int]:
        return dict(self.stage.service.accounting.snapshot(self.stage.now_s()).outcomes)


@pytest.fixture
def make_desk(tokenizer_dir: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**options: Any) -> Desk:
        desks.append(Desk(tokenizer_dir, **options))
        return desks[-1]

    yield make
    for desk in desks:
        desk.stage.service.stop()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


def test_a_whole_completion(desk: Desk) -> None:
    client = desk.ask(max_tokens=50)
    desk.say(1, desk.tokens("Hello é"), [1])
    status, body = client.answer()
    assert (status, client.header("x-request-id"), client.header("content-type")) == (200, "my-id", "application/json")
    assert body.pop("id").startswith("cmpl-") and isinstance(body.pop("created"), int)
    count = len(desk.tokens("Hello é")) + 1
    assert body == {
        "object": "text_completion",
        "model": "m",
        "system_fingerprint": "fp_0123456789ab",
        "choices": [{"index": 0, "text": "Hello é", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count},
    }


def test_a_whole_chat(desk: Desk) -> None:
    client = desk.ask(CHAT, max_completion_tokens=2)
    desk.say(1, desk.tokens("q")[:1], desk.tokens("w")[:1])
    _, body = client.answer()
    assert body["id"].startswith("chatcmpl-")
    [choice] = body["choices"]
    message = {"role": "assistant", "content": "qw", "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    assert b"my-id-" in desk.stage.engine.bodies[1]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("has_usage", [False, True])
def test_a_stream(desk: Desk, path: str, has_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if has_usage else {}
    client = desk.ask(path, stream=True, max_tokens=30, **options)
    desk.stage.call(1)
    desk.stage.engine.say(1, answer(*desk.tokens("He")))
    desk.stage.until(lambda: b'"He"' in client.peek(), "the first piece")
    desk.stage.engine.say(1, answer(*desk.tokens('"l\n'), 1))
    desk.stage.engine.end(1)
    *events, done = client.events()
    assert done == "[DONE]" and client.header("content-type") == "text/event-stream"
    usage = events.pop() if has_usage else None
    if has_usage:
        assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], sum(list(usage["usage"].values())[:2]))
    assert {("usage" in event, event.get("usage")) for event in events} == {(has_usage, None)}
    assert len({event["id"] for event in events}) == 1 and {event["model"] for event in events} == {"m"}
    choices = [event["choices"][0] for event in events]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    if path == CHAT:
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert choices[0]["delta"] == {"role": "assistant", "content": ""} and choices[-1]["delta"] == {}
        assert "".join(choice["delta"].get("content", "") for choice in choices) == 'He"l\n'
    else:
        assert "".join(choice["text"] for choice in choices) == 'He"l\n'


def test_several_answers(desk: Desk) -> None:
    client = desk.ask(prompt=["ab", "cd"], n=2, max_tokens=1)
    words = "qwer"
    for call in range(1, 5):
        index = desk.stage.reply_of_any(call)._index  # type: ignore[attr-defined]
        desk.say(call, desk.tokens(words[index])[:1])
    _, body = client.answer()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == list(enumerate(words))
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    assert desk.outcomes()["ok"] == 4


def test_a_prompt_of_several_answers_is_prepared_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred answers cost one rendering, and one place among those that wait for it."""
    rendered, text = [], desk.stage.text
    assert text.template is not None
    render = text.template.render
    monkeypatch.setattr(text.template, "render", lambda *args: rendered.append(args) or render(*args))
    client = desk.ask(CHAT, n=4, max_tokens=1)
    for call in range(1, 5):
        desk.say(call, desk.tokens("q")[:1])
    _, body = client.answer()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["q"] * 4
    assert len(rendered) == 1
    assert desk.ask(CHAT, n=4, messages=[{"role": "user", "content": [{"type": "x"}]}]).answer()[0] == 400
    desk.stage.until(lambda: sum(desk.outcomes().values()) == 8, "whoever waited for the prompt is over, too")


def test_several_answers_in_one_stream(desk: Desk) -> None:
    client = desk.ask(CHAT, n=2, stream=True, max_tokens=2)
    for call in (1, 2):
        desk.say(call, desk.tokens("q")[:1], desk.tokens("w")[:1])
    *events, done = client.events()
    assert done == "[DONE]"
    for index in (0, 1):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant" and mine[-1]["finish_reason"] == "length"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "qw"


def test_a_fault_before_the_first_byte_has_a_status(desk: Desk) -> None:
    client = desk.ask(stream=True)
    desk.stage.engine.say(desk.stage.call(1), answer(error="broken"))
    desk.stage.engine.end(1)
    status, body = client.answer()
    assert (status, body["error"]["code"], body["error"]["message"]) == (500, "engine_failed", "broken")


@pytest.mark.parametrize(
    ("text", "status", "retries"),
    [
        pytest.param("UNAVAILABLE: the engine process is being restarted", 503, True, id="restart"),
        pytest.param("the engine refused the request: no", 400, False, id="refused"),
        pytest.param("bad_words_list: with sequences this takes no penalty", 400, False, id="refused-by-name"),
        pytest.param("something else", 500, False, id="broken"),
    ],
)
def test_what_the_engine_says_has_its_status(desk: Desk, text: str, status: int, retries: bool) -> None:
    client = desk.ask()
    desk.stage.engine.say(desk.stage.call(1), answer(error=text))
    desk.stage.engine.end(1)
    assert client.answer()[0] == status
    assert (b"retry-after" in client.read()) == retries


def test_a_fault_after_the_first_byte_is_an_event(desk: Desk) -> None:
    client = desk.ask(stream=True, max_tokens=20)
    desk.stage.engine.say(desk.stage.call(1), answer(*desk.tokens("He")))
    desk.stage.until(lambda: b"He" in client.peek(), "the first piece")
    desk.stage.engine.lose()
    *_, last = client.events()
    assert last["error"]["code"] == "unavailable"
    assert desk.outcomes()["failed"] == 1


def test_one_fault_ends_all_answers(desk: Desk) -> None:
    client = desk.ask(n=3, max_tokens=20)
    for call in (1, 2, 3):
        desk.stage.call(call)
    desk.stage.engine.say(2, answer(error="broken"))
    desk.stage.engine.end(2)
    assert client.answer()[0] == 500
    desk.stage.until(lambda: sum(desk.outcomes().values()) == 3, "all are over")
    assert desk.outcomes() | {"failed": 1, "cancelled": 2} == desk.outcomes()


def test_a_client_that_leaves_is_noticed_at_once(desk: Desk) -> None:
    client = desk.ask(n=2, stream=True, max_tokens=20)
    for call in (1, 2):
        desk.stage.call(call)
    client.exchange.mark_gone()
    desk.stage.until(lambda: desk.outcomes()["cancelled"] == 2, "both are cancelled")
    assert sorted(desk.stage.engine.cancelled) == [1, 2]


def test_a_full_line_is_429_and_takes_back_what_was_submitted(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(slots=1, max_waiting=2)
    first = desk.ask(max_tokens=5)
    desk.stage.call(1)
    second = desk.ask(n=3)
    status, body = second.answer()
    assert (status, body["error"]["code"], second.header("retry-after")) == (429, "queue_full", "1")
    desk.stage.until(lambda: desk.outcomes()["cancelled"] == 2, "what waited is gone")
    desk.say(1, desk.tokens("q"), [1])
    assert first.answer()[0] == 200
    assert desk.outcomes() == {"ok": 1, "cancelled": 2, "failed": 0, "invalid": 0, "rejected": 1}


def test_what_cannot_be_read_is_counted_as_invalid(desk: Desk) -> None:
    assert desk.ask(temperature="hot").answer()[0] == 400
    assert desk.ask(prompt="x" * 5000).answer()[0] == 400
    assert desk.ask(prompt=[5000]).answer()[1]["error"]["param"] == "prompt"
    desk.stage.until(lambda: desk.outcomes()["invalid"] == 3, "all are counted")
    assert 'trtbuild_requests_total{model="m",version="1",outcome="invalid"} 3' in desk.api.metrics().decode()


def test_a_server_that_ends_says_503(desk: Desk) -> None:
    running = desk.ask(stream=True, max_tokens=20)
    desk.stage.engine.say(desk.stage.call(1), answer(*desk.tokens("He")))
    desk.stage.until(lambda: b"He" in running.peek(), "the first piece")
    desk.stage.service.drain(time.monotonic() + 60)
    for body in ({}, {"temperature": "hot"}):
        refused = desk.ask(**body)
        assert refused.answer()[0] == 503 and int(refused.header("retry-after")) > 0
    assert desk.api.unready_reason() == "the server is shutting down"
    desk.say(1, desk.tokens("y"), [1])
    assert running.events()[-1] == "[DONE]", "what runs goes on"


def test_a_model_without_a_chat_template_says_what_to_use(make_tokenizer_dir: Callable[..., Path]) -> None:
    desk = Desk(make_tokenizer_dir(tokenizer_config={"eos_token": "</s>"}))
    status, body = desk.ask(CHAT).answer()
    assert (status, body["error"]["param"]) == (400, "messages")
    assert "use /v1/completions" in body["error"]["message"] and "text_input" not in body["error"]["message"]
    desk.stage.service.stop()


def test_stop_tokens_and_banned_tokens(desk: Desk) -> None:
    stop = desk.tokens("q")[0]
    client = desk.ask(stop_token_ids=[stop], ignore_eos=True, max_tokens=20)
    desk.say(1, [*desk.tokens("He"), 1, stop, *desk.tokens("never")])
    _, body = client.answer()
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("He", "stop")
    assert desk.ask(stop_token_ids=[99999]).answer()[1]["error"]["param"] == "stop_token_ids"
    assert desk.ask(logit_bias={"5": 5}).answer()[1]["error"]["param"] == "logit_bias"


def test_tokenize_and_detokenize(desk: Desk) -> None:
    status, body = desk.ask("/tokenize", prompt="ab", return_token_strs=True).answer()
    ids = desk.stage.text.encode("ab")
    strings = [desk.stage.text.tokenizer.id_to_token(number) for number in ids]
    assert (status, body) == (200, {"count": 3, "max_model_len": 60, "tokens": ids, "token_strs": strings})
    _, bare = desk.ask("/tokenize", prompt="ab", add_special_tokens=False).answer()
    assert bare["tokens"] == ids[1:] and bare["token_strs"] is None
    messages = [{"role": "user", "content": "ab"}]
    _, chat = desk.ask("/tokenize", messages=messages).answer()
    assert chat["tokens"] == desk.stage.text.encode_messages(json.dumps(messages))
    assert desk.ask("/detokenize", tokens=ids).answer() == (200, {"prompt": "<s>ab"})
    assert desk.outcomes() == dict.fromkeys(desk.outcomes(), 0), "nothing was generated"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param("/tokenize", {}, "prompt", id="nothing"),
        pytest.param("/tokenize", {"prompt": "a", "messages": [{}]}, "prompt", id="both"),
        pytest.param("/tokenize", {"prompt": "a" * 9000}, "prompt", id="too-long"),
        pytest.param("/detokenize", {"tokens": [10**6]}, "tokens", id="no-token"),
        pytest.param("/detokenize", {"tokens": "a"}, "tokens", id="no-list"),
    ],
)
def test_wrong_requests_for_tokens(desk: Desk, path: str, body: dict[str, Any], param: str) -> None:
    from trtbuild_http.errors import ApiError

    with pytest.raises(ApiError) as refusal:
        desk.ask(path, **body)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_the_entry_and_the_state_of_the_model(desk: Desk) -> None:
    entry = desk.api.describe()
    assert (entry["id"], entry["root"], entry["created"], entry["max_model_len"]) == ("m", "org/M", 7, 60)
    assert desk.api.aliases == {"org/M"}
    assert (desk.api.unready_reason(), desk.api.stuck_reason()) == ("", "")
    desk.engine_fault = "restarting"
    assert desk.api.unready_reason() == "restarting"


@given(st.text())
def test_a_text_in_an_event_is_one_line_for_everybody(text: str) -> None:
    data = dumps_text(text)
    assert json.loads(data) == text
    assert len(data.decode().splitlines()) == 1
