"""A real tritonserver with engines of the cpu backend, made of tiny checkpoints, and a gRPC client for them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.cpu_parity import checkpoints
from trtbuild import backends, process
from trtbuild.catalog import ModelInfo
from trtbuild.host import inspect_host
from trtbuild.plan import ResolvedModel
from trtbuild.repository import render_directory
from trtbuild.serve import access, launch
from trtbuild.serve.ports import Ports, choose_ports
from trtbuild.serve.server import find_server, prepare_server
from trtbuild.spec import EngineSpec, RepositorySpec, ServerSpec

pytest.importorskip("openvino_genai")
grpc = pytest.importorskip("tritonclient.grpc")

DEADLINE_S = 120.0
"""For anything that must happen at all; never a statement about speed."""


def build_engine(root: Path, *, context_tokens: int = 512, **spec: Any) -> Path:
    """Build the tiny llama below ``root``; return the engine directory."""
    snapshot, engine, work = root / "snapshot", root / "engine", root / "work"
    checkpoints.write_checkpoint("llama", snapshot)
    config = json.loads((snapshot / "config.json").read_text()) | {"max_position_embeddings": context_tokens}
    (snapshot / "config.json").write_text(json.dumps(config))
    info = ModelInfo.from_hf_config("local/llama", config)
    model = ResolvedModel(model_id="local/llama", revision="tree-0", source="directory", info=info)
    backend = backends.get("cpu")
    plan = backend.plan(EngineSpec(model="llama", **spec), model, inspect_host(os.environ))
    engine.mkdir()
    work.mkdir()
    backend.build(plan, snapshot, engine, work)
    return engine


def write_model(repository: Path, name: str, engine: Path, *, backend_name: str = "cpu", **spec: Any) -> None:
    """Render the engine model into a repository under ``name``."""
    backend = backends.get(backend_name)
    template = backend.template(backend.inspect(engine), engine, RepositorySpec(**spec))
    for path, data in render_directory(template.directory, name, {**template.variables, "name": name}).items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_bytes(data)


@dataclass
class Server:
    """A running tritonserver."""

    child: subprocess.Popen[bytes]
    ports: Ports
    log: Path

    def wait_ready(self) -> None:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            assert self.child.poll() is None, self.log.read_text()[-4000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.ports.http}/v2/health/ready", timeout=5).close()
                self.metrics()  # the server opens this port last
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"not ready within {DEADLINE_S} s: {self.log.read_text()[-4000:]}")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports.metrics}/metrics", timeout=30) as response:
            return str(response.read().decode())

    def workers(self, engine: Path) -> list[int]:
        """Return the process ids of engine processes of ``engine``."""
        return workers(engine)

    def stop(self) -> int:
        return process.stop(self.child, grace_s=60)


def workers(engine: Path) -> list[int]:
    """Return the process ids of the engine processes that serve ``engine``, on the whole machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if any(part.endswith(b"engine_worker.py") for part in argv) and str(engine).encode() in argv:
            found.append(int(path.parent.name))
    return found


def start_server(
    repository: Path, scratch: Path, env: Mapping[str, str] | None = None, server_arg: Mapping[str, str] | None = None
) -> Server:
    """Start a server on ``repository``; the caller stops it."""
    found = find_server(os.environ["PATH"])
    prepared = prepare_server(found, cache_dir=scratch / "cache", search_path=os.environ["PATH"])
    spec = ServerSpec(http_port=0, grpc_port=0, metrics_port=0, server_arg=dict(server_arg or {}))
    ports = choose_ports(spec)
    command = launch.server_command(prepared, repository, spec, ports, secrets=access.make_secrets({}))
    # The tests of the engine model call it as its front model would, by a secret that is none.
    command = process.Command(argv=command.argv, env={**command.env, access.ENGINE_SECRET: "", **(env or {})})
    log = scratch / "server.log"
    return Server(child=process.start(command, log_path=log), ports=ports, log=log)


def until(condition: Any, what: str) -> Any:
    """Return the first true value of ``condition()``."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {DEADLINE_S} s: {what}")


@dataclass
class Answer:
    """What came back for one request so far."""

    tokens: list[int] = field(default_factory=list)
    parts: int = 0
    tensors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    log_probs: list[float] = field(default_factory=list)
    error: str = ""
    is_final: bool = False


_TYPES = {
    **dict.fromkeys(("temperature", "runtime_top_p", "repetition_penalty", "presence_penalty"), ("FP32", np.float32)),
    **dict.fromkeys(("streaming", "stop", "return_log_probs", "return_perf_metrics"), ("BOOL", np.bool_)),
    **dict.fromkeys(("exclude_input_in_output", "return_num_input_tokens"), ("BOOL", np.bool_)),
    **dict.fromkeys(("return_num_output_tokens", "return_context_logits"), ("BOOL", np.bool_)),
    "return_generation_logits": ("BOOL", np.bool_),
    **dict.fromkeys(("seed", "random_seed"), ("UINT64", np.uint64)),
}


def tensors(**values: Any) -> list[Any]:
    """Return input tensors ``[1, n]``; word lists are ``[1, 2, n]``."""
    inputs = []
    for name, value in values.items():
        datatype, kind = _TYPES.get(name, ("INT32", np.int32))
        array = np.array([value if isinstance(value, list) else [value]], kind)
        tensor = grpc.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def word_list(*words: list[int]) -> list[list[int]]:
    """Return TensorRT-LLM's form of a word list."""
    flat = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [flat, ends + [-1] * (len(flat) - len(ends))]


class Stream:
    """One gRPC stream: many requests at once, answers sorted by request id."""

    def __init__(self, server: Server) -> None:
        self._client = grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}")
        self._arrived: queue.Queue[Any] = queue.Queue()
        self._client.start_stream(lambda result, error: self._arrived.put((result, error)))
        self.answers: dict[str, Answer] = {}

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream(cancel_requests=not all(answer.is_final for answer in self.answers.values()))
        self._client.close()

    def send(self, request_id: str, *, model: str = "tensorrt_llm", **values: Any) -> None:
        self.answers[request_id] = Answer()
        self._client.async_stream_infer(
            model, tensors(**values), request_id=request_id, enable_empty_final_response=True
        )

    def take(self) -> tuple[str, Answer]:
        """Wait for one response."""
        result, error = self._arrived.get(timeout=DEADLINE_S)
        if error is not None:
            request_id = next(iter(self.answers)) if len(self.answers) == 1 else _id_of(error)
            answer = self.answers[request_id]
            answer.error, answer.is_final = str(error), True
            return request_id, answer
        response = result.get_response()
        answer = self.answers[response.id]
        output = result.as_numpy("output_ids")
        if output is not None:
            answer.parts += 1
            answer.tokens += output.reshape(-1).tolist()
            assert result.as_numpy("sequence_length").reshape(-1).tolist() == [output.size]
        for tensor in response.outputs:
            answer.tensors[tensor.name] = result.as_numpy(tensor.name)
        if "output_log_probs" in answer.tensors:
            answer.log_probs += answer.tensors.pop("output_log_probs").reshape(-1).tolist()
        answer.is_final = response.parameters["triton_final_response"].bool_param
        return response.id, answer

    def finish(self, *request_ids: str) -> None:
        """Take responses until the named requests (all, when none is named) are final."""
        wanted = request_ids or tuple(self.answers)
        while not all(self.answers[name].is_final for name in wanted):
            self.take()

    def drop(self) -> None:
        """Leave without waiting: every open request is cancelled."""
        self._client.stop_stream(cancel_requests=True)


def _id_of(error: Any) -> str:
    raise AssertionError(f"an error among several requests: {error}")


def ask(server: Server, **values: Any) -> Answer:
    """Send one request and wait for its end."""
    with Stream(server) as stream:
        stream.send("only", **values)
        stream.finish()
        return stream.answers["only"]


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[2] / "data" / "cpu_parity" / "reference.json"
    return dict(json.loads(path.read_text())["checkpoints"]["llama"])


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with eight slots."""
    return build_engine(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def long_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with two slots and room for sequences that take many seconds."""
    root = tmp_path_factory.mktemp("long")
    return build_engine(root, context_tokens=60_000, max_batch_size=2, max_seq_len=60_000, kv_cache_tokens=120_000)


@pytest.fixture(scope="module")
def server(engine: Path, long_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with both engines; the second is called ``long`` and refuses more than three waiting requests."""
    scratch = tmp_path_factory.mktemp("server")
    write_model(scratch / "repository", "tensorrt_llm", engine)
    write_model(scratch / "repository", "long", long_engine, max_queue_size=3)
    running = start_server(scratch / "repository", scratch)
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
