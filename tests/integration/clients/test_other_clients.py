"""Clients that others wrote, and minimal ones of ours that do what theirs do, on every model of both layouts.

What works where is the table of docs/clients.md, "Other clients": each of its cells is tried here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
pytest.importorskip("pytriton", reason="the CPU server (nvidia-pytriton) is not installed")

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.integration.front.conftest import RunningServer, serve_cpu

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
PROMPT = "The assert statement"
TOKENS = 12
LLAMA_INDEX = Path(os.environ.get("VENV", ROOT / ".venv")) / "llama-index" / "bin" / "python"
MODELS = ("chat", "ensemble", "tensorrt_llm_bls")
COLUMNS = (
    (("decoupled", "minimal"), ("chat",)),
    (("decoupled",), ("ensemble", "tensorrt_llm_bls")),
    (("single",), MODELS),
)


@dataclass(frozen=True)
class Servers:
    """The same model served in three ways, and what it says."""

    decoupled: RunningServer
    minimal: RunningServer
    single: RunningServer
    answer: str


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    first, second, third = (tmp_path_factory.mktemp(name) for name in ("decoupled", "single", "minimal"))
    store = ("--store", str(first / "store"))
    with (
        serve_cpu(first, "--layout", "full") as decoupled,
        serve_cpu(second, "--layout", "full", "--no-decoupled", *store) as single,
        serve_cpu(third, *store) as minimal,
    ):
        answer = str(decoupled.generate(text_input=PROMPT, max_tokens=TOKENS)["text_output"])
        assert len(answer) > TOKENS
        yield Servers(decoupled=decoupled, minimal=minimal, single=single, answer=answer)


class RefusedError(Exception):
    """What a client was told instead of an answer."""


def _shape(model: str) -> list[int]:
    return [1] if model == "chat" else [1, 1]


def _tensors(module: Any, model: str, **values: Any) -> list[Any]:
    """Return inputs as a program makes them that knows the model: with a batch dimension where it has one."""
    kinds = {str: ("BYTES", np.object_), bool: ("BOOL", np.bool_), int: ("INT32", np.int32)}
    out = []
    for name, value in values.items():
        datatype, kind = kinds[type(value)]
        tensor = module.InferInput(name, _shape(model), datatype)
        data = np.array([value.encode() if isinstance(value, str) else value], kind)
        tensor.set_data_from_numpy(data.reshape(_shape(model)))
        out.append(tensor)
    return out


def _stream(server: RunningServer, model: str, inputs: list[Any], outputs: list[str]) -> list[Any]:
    """Return all results of a request over a gRPC stream."""
    results: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(callback=lambda result, error: results.put(error or result))
        wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in outputs] or None
        client.async_stream_infer(model, inputs, outputs=wanted)
        client.stop_stream()
    found = list(results.queue)
    for result in found:
        if isinstance(result, InferenceServerException):
            raise RefusedError(str(result))
    return found


# The clients: each returns the text that it shows, or raises RefusedError.


def generate(server: RunningServer, model: str) -> str:
    status, text = server.post(f"{model}/generate", {"text_input": PROMPT, "max_tokens": TOKENS})
    if status != 200:
        raise RefusedError(text)
    return str(json.loads(text)["text_output"])


def generate_stream(server: RunningServer, model: str) -> str:
    body = {"text_input": PROMPT, "max_tokens": TOKENS, "stream": True}
    _, text = server.post(f"{model}/generate_stream", body)
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    if not events or "error" in events[0]:
        raise RefusedError(text)
    return "".join(event["text_output"] for event in events)


def grpc_stream(server: RunningServer, model: str) -> str:
    inputs = _tensors(tritonclient.grpc, model, text_input=PROMPT, max_tokens=TOKENS)
    return "".join(result.as_numpy("text_output")[0].decode() for result in _stream(server, model, inputs, []))


def grpc_aio_stream(server: RunningServer, model: str) -> str:
    async def ask() -> str:
        async def requests() -> Any:
            inputs = _tensors(tritonclient.grpc.aio, model, text_input=PROMPT, max_tokens=TOKENS)
            yield {"model_name": model, "inputs": inputs}

        text = ""
        async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
            async for result, error in client.stream_infer(requests()):
                if error:
                    raise RefusedError(str(error))
                text += result.as_numpy("text_output")[0].decode()
        return text

    return asyncio.run(ask())


def _infer(module: Any, url: str, model: str) -> str:
    with module.InferenceServerClient(url) as client:
        try:
            result = client.infer(model, _tensors(module, model, text_input=PROMPT, max_tokens=TOKENS))
        except InferenceServerException as error:
            raise RefusedError(str(error)) from error
    return str(result.as_numpy("text_output")[0].decode())


def grpc_infer(server: RunningServer, model: str) -> str:
    return _infer(tritonclient.grpc, server.grpc, model)


def http_infer(server: RunningServer, model: str) -> str:
    return _infer(tritonclient.http, server.url.removeprefix("http://"), model)


def http_aio_infer(server: RunningServer, model: str) -> str:
    async def ask() -> str:
        module = tritonclient.http.aio
        async with module.InferenceServerClient(server.url.removeprefix("http://")) as client:
            try:
                result = await client.infer(model, _tensors(module, model, text_input=PROMPT, max_tokens=TOKENS))
            except InferenceServerException as error:
                raise RefusedError(str(error)) from error
        return str(result.as_numpy("text_output")[0].decode())

    return asyncio.run(ask())


def mandatory_inputs(server: RunningServer, model: str) -> str:
    """Fill what the model's configuration calls mandatory, with the batch dimension it has, as triton_cli does.

    Source: triton-inference-server/triton_cli, src/triton_cli/client/client.py, generate_data.
    """
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        config = client.get_model_config(model, as_json=True)["config"]
    values: dict[str, Any] = {"text_input": PROMPT.encode(), "max_tokens": TOKENS}
    inputs = []
    for entry in config["input"]:
        if entry.get("optional"):
            continue
        shape = [1] * (len(entry["dims"]) + (1 if config.get("max_batch_size", 0) > 0 else 0))
        datatype = entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
        tensor = tritonclient.grpc.InferInput(entry["name"], shape, datatype)
        tensor.set_data_from_numpy(np.full(shape, values[entry["name"]], triton_to_np_dtype(datatype)))
        inputs.append(tensor)
    results = _stream(server, model, inputs, [])
    text = "".join(text.decode() for result in results for text in result.as_numpy("text_output").flatten())
    return text if any(tensor.name() == "max_tokens" for tensor in inputs) else _first_tokens(server, text)


def _first_tokens(server: RunningServer, text: str) -> str:
    """Return the part of a longer answer that the others got: they said how many tokens they want."""
    shorter = generate(server, "chat")
    assert text.startswith(shorter) and len(text) > len(shorter)
    return shorter


def end_to_end(server: RunningServer, model: str, **options: Any) -> str:
    """Send what NVIDIA's end_to_end_grpc_client.py always sends, and read what it reads.

    Source: tensorrtllm_backend, inflight_batcher_llm/client/end_to_end_grpc_client.py, v0.9.0 to v0.19.0, and
    NVIDIA/TensorRT-LLM, triton_backend/inflight_batcher_llm/client, 2a9abd95.
    """
    values = {"text_input": (PROMPT.encode(), "BYTES", np.object_), "max_tokens": (TOKENS, "INT32", np.int32)}
    values |= {"stream": (False, "BOOL", np.bool_), "beam_width": (1, "INT32", np.int32)}
    values |= {"temperature": (1.0, "FP32", np.float32), "num_return_sequences": (1, "INT32", np.int32)}
    values |= {"exclude_input_in_output": (False, "BOOL", np.bool_)}
    values |= {name: (value, "BOOL", np.bool_) for name, value in options.items()}
    inputs = []
    for name, (value, datatype, kind) in values.items():
        tensor = tritonclient.grpc.InferInput(name, [1, 1], datatype)
        tensor.set_data_from_numpy(np.array([[value]], kind))
        inputs.append(tensor)
    outputs = ["text_output"]
    outputs += ["cum_log_probs", "output_log_probs"] if options.get("return_log_probs") else []
    text = ""
    for result in _stream(server, model, inputs, outputs):
        output = result.as_numpy("text_output")
        text += output[0].decode("utf-8")
        if (log_probs := result.as_numpy("output_log_probs")) is not None:
            assert log_probs.shape[:2] == (1, 1) and log_probs.shape[2] > 0
            assert result.as_numpy("cum_log_probs").shape == (1, 1)
    return text


def llama_index(server: RunningServer, model: str) -> str:
    """LlamaIndex's integration as its users install it, in an environment of its own (tools/setup.sh makes it).

    It shows at most ``tokens`` - 1 pieces: with one token in each, as upstream sends them too, the last token is lost.
    """
    if not LLAMA_INDEX.exists():
        pytest.skip(f"no {LLAMA_INDEX}: tools/setup.sh test installs it")
    code = (
        "import sys; from llama_index.llms.nvidia_triton import NvidiaTriton\n"
        "model = NvidiaTriton(server_url=sys.argv[1], model_name=sys.argv[2], tokens=int(sys.argv[3]))\n"
        "print(end=''.join(piece.delta for piece in model.stream_complete(sys.argv[4])))\n"
    )
    command = [str(LLAMA_INDEX), "-c", code, server.grpc, model, str(TOKENS), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        assert "InferenceServerException" in done.stderr, done.stderr
        raise RefusedError(done.stderr.splitlines()[-1])
    return _whole(server, done.stdout)


def _whole(server: RunningServer, text: str) -> str:
    """Return the whole answer of which ``text`` is the part without the last token."""
    whole = generate(server, "chat")
    assert whole.startswith(text) and len(text) > len(whole) / 2
    return whole


CLIENTS: dict[str, Callable[[RunningServer, str], str]] = {
    "HTTP `generate`": generate,
    "HTTP `generate_stream`, `stream: true`": generate_stream,
    "tritonclient, gRPC stream": grpc_stream,
    "tritonclient, gRPC stream (asyncio)": grpc_aio_stream,
    "tritonclient, gRPC `infer`": grpc_infer,
    "tritonclient, HTTP `infer`": http_infer,
    "tritonclient, HTTP `infer` (asyncio)": http_aio_infer,
    "`triton infer` of triton_cli": mandatory_inputs,
    "NVIDIA's `end_to_end_grpc_client.py`": end_to_end,
    "LlamaIndex (`llama-index-llms-nvidia-triton` 0.6.0)": llama_index,
}


def _table() -> dict[str, list[str]]:
    """Return the cells of the table in docs/clients.md by client."""
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8").split("## Other clients")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: [cell.strip() for cell in row[1:4]] for row in rows[1:]}


def test_the_table_in_the_docs_names_the_clients_that_are_tried_here() -> None:
    assert set(_table()) == set(CLIENTS)
    assert all(len(cells) == len(COLUMNS) for cells in _table().values())


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_works_where_the_docs_say_so_and_is_refused_elsewhere(servers: Servers, name: str) -> None:
    for cell, (kinds, models) in zip(_table()[name], COLUMNS, strict=True):
        tried = models[1:] if cell.endswith("not `NAME`") else models
        for kind, model in itertools.product(kinds, tried):
            server: RunningServer = getattr(servers, kind)
            if cell.startswith("yes"):
                text = CLIENTS[name](server, model)
                assert text in {servers.answer, PROMPT + servers.answer}, (kind, model, cell)
            else:
                with pytest.raises(RefusedError):
                    CLIENTS[name](server, model)
                    pytest.fail(f"{name} works on {model} ({kind}); the docs say {cell!r}")


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize(
    ("options", "has_prompt"),
    [
        pytest.param({}, True, id="plain"),
        pytest.param({"exclude_input_in_output": True}, False, id="excluded"),
        pytest.param({"stream": True}, False, id="stream"),
        pytest.param({"return_log_probs": True}, True, id="log-probs"),
        pytest.param({"return_log_probs": True, "stream": True}, False, id="streamed-log-probs"),
        pytest.param({"return_context_logits": False, "return_generation_logits": False}, True, id="no-logits"),
    ],
)
def test_every_mode_of_upstream_s_client(
    servers: Servers, model: str, options: dict[str, bool], has_prompt: bool
) -> None:
    text = end_to_end(servers.decoupled, model, **options)
    assert text == (PROMPT if has_prompt else "") + servers.answer


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_logits_that_upstream_s_client_asks_for_are_refused_by_name(servers: Servers, model: str) -> None:
    with pytest.raises(RefusedError, match="return_context_logits: "):
        end_to_end(servers.decoupled, model, return_context_logits=True)


def test_many_infers_at_once_are_computed_together(servers: Servers) -> None:
    """Models with one response per request return from execute() at once, too: none waits for another's answer."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        texts = set(pool.map(lambda _: grpc_infer(servers.single, "chat"), range(32)))
    assert texts == {servers.answer}
    queue_s = servers.single.metric("trtbuild_request_queue_seconds_total")
    assert queue_s > 0  # 16 clients at 4 slots: they wait in the front model, which has taken them all
