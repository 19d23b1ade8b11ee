"""Repositories with TensorRT-LLM's own models, and with several served models, in a real tritonserver."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from tests.unit.front import kinds
from trtbuild.repository import ServedModel, write_repository

pytestmark = pytest.mark.integration

PROMPT = "The quick brown fox jumps over the lazy dog."
TYPES = {bool: ("BOOL", np.bool_), int: ("INT32", np.int32), str: ("BYTES", np.object_), float: ("FP32", np.float32)}


@pytest.fixture(scope="module")
def full_server(tmp_path_factory: pytest.TempPathFactory, front_tokenizer: Path) -> Iterator[RunningServer]:
    """The full layout on an engine with a batch dimension, and a second model beside it."""
    workspace = tmp_path_factory.mktemp("full")
    record = workspace / "engine.jsonl"
    models = [
        ServedModel(
            served_name=name,
            engine_template=standin(4, 0.01, record, max_batch_size=4),
            engine_info=engine_info(4),
            tokenizer_dir=front_tokenizer,
            layout=layout,
        )
        for name, layout in (("chat", "full"), ("second", "minimal"))
    ]
    with serve(write_repository(workspace / "repository", models), workspace, record) as running:
        yield running


def _echo(prompt: str, tokens: int) -> str:
    ids = kinds.byte_level().encode(prompt).ids
    return kinds.byte_level().decode([ids[at % len(ids)] for at in range(tokens)])


def _ask(server: RunningServer, model: str, *, wants_all: bool = False, **inputs: Any) -> list[Any]:
    """Send one request as a client of TensorRT-LLM's templates does (shape [1, 1]); return all answers."""
    answers: queue.Queue[Any] = queue.Queue()
    client = grpc_client.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: answers.put(error or result))
    tensors = []
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        datatype, dtype = TYPES[type(values[0])]
        tensor = grpc_client.InferInput(name, [1, len(values)], datatype)
        tensor.set_data_from_numpy(np.array([values], dtype))
        tensors.append(tensor)
    wanted = None if wants_all else [grpc_client.InferRequestedOutput("text_output")]
    client.async_stream_infer(model, tensors, outputs=wanted, enable_empty_final_response=True)
    results = []
    while True:
        result = answers.get(timeout=60)
        if isinstance(result, InferenceServerException):
            client.stop_stream()
            client.close()
            raise result
        results.append(result)
        if result.get_response().parameters["triton_final_response"].bool_param:
            client.stop_stream()
            client.close()
            return results


def _text(results: list[Any]) -> str:
    arrays = [result.as_numpy("text_output") for result in results]
    return "".join(array.reshape(-1)[0].decode() for array in arrays if array is not None)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize("stream", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_a_client_of_nvidia_s_templates_works_unchanged(full_server: RunningServer, model: str, stream: bool) -> None:
    results = _ask(
        full_server, model, text_input=PROMPT, max_tokens=24, stream=stream, bad_words=[""], stop_words=[""],
        temperature=1.0, exclude_input_in_output=True,
    )  # fmt: skip
    assert _text(results) == _echo(PROMPT, 24)
    assert (len(results) > 5) == stream
    assert results[0].as_numpy("text_output").shape == (1,)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_stop_words_and_end_ids_end_it_too(full_server: RunningServer, model: str) -> None:
    options: dict[str, Any] = {"max_tokens": 60, "exclude_input_in_output": True}
    text = _text(_ask(full_server, model, text_input="abc STOP def", stop_words=["P"], **options))
    assert text.startswith("abc STO") and "def" not in text
    assert _text(_ask(full_server, model, text_input="abc<|end|>def", **options)) == "abc"


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_over_http_too(full_server: RunningServer, model: str) -> None:
    status, text = full_server.post(f"{model}/generate", {"text_input": PROMPT, "max_tokens": 8, "min_tokens": 1})
    assert status == 200, text
    assert _echo(PROMPT, 8).strip('"') in text


def test_the_bls_model_refuses_what_it_cannot_do(full_server: RunningServer) -> None:
    with pytest.raises(InferenceServerException, match="return_generation_logits: this model has no logits"):
        _ask(full_server, "tensorrt_llm_bls", text_input="a", max_tokens=1, return_generation_logits=True)


def test_the_steps_can_be_called_alone(full_server: RunningServer) -> None:
    client = grpc_client.InferenceServerClient(full_server.grpc)
    query = grpc_client.InferInput("QUERY", [2, 1], "BYTES")
    query.set_data_from_numpy(np.array([[b"abc"], [PROMPT.encode()]], np.object_))
    length = grpc_client.InferInput("REQUEST_OUTPUT_LEN", [2, 1], "INT32")
    length.set_data_from_numpy(np.array([[1], [2]], np.int32))
    prepared = client.infer("preprocessing", [query, length])
    ids, lengths = prepared.as_numpy("INPUT_ID"), prepared.as_numpy("REQUEST_INPUT_LEN")
    assert ids.shape == (2, lengths.max())
    tokens = grpc_client.InferInput("TOKENS_BATCH", [2, 1, ids.shape[1]], "INT32")
    tokens.set_data_from_numpy(ids[:, np.newaxis])
    sizes = grpc_client.InferInput("SEQUENCE_LENGTH", [2, 1], "INT32")
    sizes.set_data_from_numpy(lengths)
    output = client.infer("postprocessing", [tokens, sizes]).as_numpy("OUTPUT")
    one_more = grpc_client.InferInput("SEQUENCE_LENGTH", [2, ids.shape[1] + 1], "INT32")
    one_more.set_data_from_numpy(np.ones((2, ids.shape[1] + 1), np.int32))
    with pytest.raises(InferenceServerException, match="TOKENS_BATCH: expected") as refusal:
        client.infer("postprocessing", [tokens, one_more])
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    client.close()
    assert output.tolist() == [b"abc", PROMPT.encode()]  # one dimension, as upstream's


@pytest.mark.parametrize(
    ("new", "old"), [pytest.param("seed", "random_seed"), pytest.param("min_tokens", "min_length")]
)
def test_both_spellings_reach_an_engine_that_has_one(full_server: RunningServer, new: str, old: str) -> None:
    """The stand-in has the new names only; preprocessing renames the old ones."""
    before = len(full_server.records())
    for number, sent, is_seen in ((17, {new: 7}, True), (18, {old: 7}, True), (19, {}, False)):
        body = {"text_input": PROMPT, "max_tokens": number}
        status, text = full_server.post("ensemble/generate", {**body, **sent})
        assert status == 200, text

        def inputs(number: int = number) -> list[Any]:  # no other test asks for so many tokens
            return [one["inputs"] for one in full_server.records()[before:] if one["tokens"] == number]

        full_server.eventually(lambda inputs=inputs: len(inputs()) == 1, "recorded")  # type: ignore[misc]
        assert (new in inputs()[0]) == is_seen
    status, text = full_server.post("ensemble/generate", {**body, new: 7, old: 7})
    assert status == 400 and f"{new} and {old} are two spellings" in text


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_what_this_engine_cannot_do_is_refused_by_name(full_server: RunningServer, model: str) -> None:
    body = {"text_input": "abc", "max_tokens": 1}
    for name, value in {"lora_task_id": 3, "guided_decoding_guide_type": "json", "beam_width": 2}.items():
        status, text = full_server.post(f"{model}/generate", {**body, name: value})
        assert status == 400 and f"{name}: " in text, text
    nothing = {"lora_task_id": 0, "guided_decoding_guide_type": "", "beam_width": 1, "num_return_sequences": 1}
    status, text = full_server.post(f"{model}/generate", {**body, **nothing})
    assert status == 200, text


@pytest.mark.parametrize("model", ["chat", "ensemble", "tensorrt_llm_bls"])
def test_a_typing_error_is_no_parameter(full_server: RunningServer, model: str) -> None:
    status, text = full_server.post(f"{model}/generate", {"text_input": "abc", "max_tokens": 1, "top_kk": 3})
    assert status == 400 and "top_kk: this model has no such input; did you mean top_k?" in text
    nested = {"text_input": "abc", "max_tokens": 1, "parameters": {"seed": 3}}  # the server makes an input of it
    status, text = full_server.post(f"{model}/generate", nested)
    assert status == 200, text


def test_several_models_are_served_and_counted_apart(full_server: RunningServer) -> None:
    models = ("chat", "second")

    def counts() -> list[float]:
        for model in models:
            full_server.settle_metrics(model)
        return [full_server.metric("trtbuild_requests_total", outcome="ok", model=model) for model in models]

    chat, second = counts()
    assert full_server.generate("second", text_input=PROMPT, max_tokens=5)["text_output"] == _echo(PROMPT, 5)
    assert counts() == [chat, second + 1]
    full_server.generate("chat", text_input=PROMPT, max_tokens=5)
    assert counts() == [chat + 1, second + 1]


def test_messages_alone_are_a_request_though_text_is_mandatory(full_server: RunningServer) -> None:
    """Programs that fill mandatory inputs only, as triton_cli does, need one; the server only counts inputs."""
    messages = json.dumps([{"role": "user", "content": "abc"}])
    alone = full_server.generate(messages=messages, max_tokens=3)
    assert full_server.generate(messages=messages, text_input="", max_tokens=3) == alone
    assert full_server.generate(text_input="abc")["finish_reason"]
