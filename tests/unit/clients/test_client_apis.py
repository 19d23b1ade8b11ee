"""What the protocols send and read."""

from __future__ import annotations

import json

import pytest

from trtbuild.errors import SpecError
from trtclient import apis
from trtclient.apis import generate, grpc, openai
from trtclient.chat import Answer, Conversation, printable
from trtclient.generation import Generation, Piece

TALK = ({"role": "user", "content": "hé"},)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        pytest.param("http://h:8000", "generate", id="triton"),
        pytest.param("https://h", "generate", id="tls"),
        pytest.param("grpc://h:8001", "grpc", id="grpc"),
        pytest.param("grpcs://h", "grpc", id="grpc-tls"),
        pytest.param("https://h/v1/", "openai-chat", id="openai"),
    ],
)
def test_the_url_says_the_protocol(url: str, name: str) -> None:
    assert apis.choose(url) == name


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(SpecError, match="generate, grpc, openai, openai-chat, got 'rest'"):
        apis.connect("http://h", "m", name="rest")


def test_tritons_body() -> None:
    request = Generation(text="x", max_tokens=3, parameters={"top_k": 1})
    assert generate.request_body(request) == {"text_input": "x", "max_tokens": 3, "stream": True, "top_k": 1}
    body = generate.request_body(Generation(messages=TALK, stream=False))
    assert body == {"messages": '[{"role": "user", "content": "hé"}]', "stream": False}


@pytest.mark.parametrize(
    ("values", "piece"),
    [
        pytest.param({"text_output": "a", "finish_reason": ""}, Piece(1.0, "a"), id="middle"),
        pytest.param(
            {"text_output": "", "finish_reason": "stop", "prompt_tokens": 4, "completion_tokens": 2},
            Piece(1.0, "", "stop", 4, 2), id="last",
        ),
        pytest.param({"text_output": ["a", "b"], "model_name": "ensemble"}, Piece(1.0, "ab"), id="upstream"),
        pytest.param({"model_name": "x"}, Piece(1.0, ""), id="nothing"),
    ],
)  # fmt: skip
def test_tritons_pieces(values: dict[str, object], piece: Piece) -> None:
    assert generate.piece_of(1.0, values) == piece


def test_openais_bodies() -> None:
    usage = {"include_usage": True}
    plain = openai.request_body(Generation(text="x", max_tokens=3), "m", is_chat=False)
    assert plain == {"model": "m", "stream": True, "stream_options": usage, "max_tokens": 3, "prompt": "x"}
    chat = openai.request_body(Generation(text="x", stream=False), "m", is_chat=True)
    assert chat == {"model": "m", "stream": False, "messages": [{"role": "user", "content": "x"}]}
    assert openai.request_body(Generation(messages=TALK), "m", is_chat=True)["messages"] == [*TALK]


@pytest.mark.parametrize(
    ("values", "piece"),
    [
        pytest.param({"choices": [{"delta": {"content": "a"}}]}, Piece(1.0, "a"), id="delta"),
        pytest.param({"choices": [{"delta": {"role": "assistant"}}]}, Piece(1.0, ""), id="role"),
        pytest.param({"choices": [{"text": "a", "finish_reason": "length"}]}, Piece(1.0, "a", "length"), id="text"),
        pytest.param({"choices": [{"message": {"content": "a"}}]}, Piece(1.0, "a"), id="whole"),
        pytest.param({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}, Piece(1.0, "", "", 2, 3),
                     id="usage"),
    ],
)  # fmt: skip
def test_openais_pieces(values: dict[str, object], piece: Piece) -> None:
    assert openai.piece_of(1.0, values) == piece


@pytest.mark.parametrize(
    ("name", "value", "kind", "shape"),
    [
        pytest.param("stream", True, "BOOL", [1], id="bool"),
        pytest.param("max_tokens", 4, "INT32", [1], id="int32"),
        pytest.param("seed", 2**63, "UINT64", [1], id="uint64"),
        pytest.param("temperature", 1, "FP32", [1], id="float"),
        pytest.param("text_input", "é", "BYTES", [1], id="text"),
        pytest.param("stop_words", ["a", "b"], "BYTES", [2], id="list"),
    ],
)
def test_grpc_tensors(name: str, value: object, kind: str, shape: list[int]) -> None:
    tensor = grpc._input(name, value)
    assert (tensor.name(), tensor.datatype(), tensor.shape()) == (name, kind, shape)


def test_a_conversation_takes_turns() -> None:
    talk = Conversation(system="be brief", max_tokens=9)
    first = talk.ask("one")
    assert [m["role"] for m in first.messages or ()] == ["system", "user"]
    assert first.max_tokens == 9
    talk.answer("1")
    talk.ask("two")
    talk.answer("")  # it failed: the question is taken back
    assert [m["content"] for m in talk.ask("three").messages or ()] == ["be brief", "one", "1", "three"]
    talk.answer("3")
    talk.undo()
    assert [m["content"] for m in talk.messages()] == ["be brief", "one", "1"]
    talk.undo()
    talk.undo()
    assert json.dumps([*talk.messages()]) == '[{"role": "system", "content": "be brief"}]'


def test_a_model_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n\tç\x9b1m\x07") == "a[2Jb\n\tç1m"


def test_the_figures_of_an_answer() -> None:
    answer = Answer(tokens=11, first_s=0.1, elapsed_s=1.1, finish_reason="length")
    assert answer.describe() == "11 tokens, first after 100 ms, 10 tokens/s, cut at --max-tokens"
    assert Answer().describe() == "0 tokens, first after 0 ms"
