"""What a client on the network can do with a server that ``trtbuild serve`` started, with credentials and without."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tests.integration.server.conftest import EXAMPLE, Serve, Served, stop
from trtbuild.serve import health, probes
from trtbuild.serve.ports import choose_ports
from trtbuild.spec import ServerSpec

pytestmark = pytest.mark.integration

REGION = {"key": "/trtbuild_test_region", "offset": 0, "byte_size": 64}
HTTP_CALLS = [
    ("GET", "/v2/systemsharedmemory/status", None),
    ("GET", "/v2/systemsharedmemory/region/x/status", None),
    ("POST", "/v2/systemsharedmemory/region/x/register", REGION),
    ("POST", "/v2/systemsharedmemory/region/x/unregister", None),
    ("POST", "/v2/systemsharedmemory/unregister", None),
    ("GET", "/v2/cudasharedmemory/status", None),
    ("GET", "/v2/cudasharedmemory/region/x/status", None),
    ("POST", "/v2/cudasharedmemory/region/x/register", {"raw_handle": {"b64": "AA=="}, "device_id": 0, "byte_size": 8}),
    ("POST", "/v2/cudasharedmemory/region/x/unregister", None),
    ("POST", "/v2/cudasharedmemory/unregister", None),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/repository/models/chat/load", {}),
    ("POST", "/v2/repository/models/chat/unload", {}),
    ("GET", "/v2/logging", None),
    ("POST", "/v2/logging", {"log_info": False, "log_verbose_level": 5}),
    ("GET", "/v2/trace/setting", None),
    ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ("GET", "/v2/models/chat/trace/setting", None),
    ("POST", "/v2/models/chat/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
]
IDS = [f"{method} {path}" for method, path, _ in HTTP_CALLS]
GRPC_CALLS: dict[str, Any] = {
    "shm-status": lambda c: c.get_system_shared_memory_status(),
    "shm-register": lambda c: c.register_system_shared_memory("x", "/trtbuild_test_region", 64),
    "shm-unregister": lambda c: c.unregister_system_shared_memory("x"),
    "cuda-status": lambda c: c.get_cuda_shared_memory_status(),
    "cuda-register": lambda c: c.register_cuda_shared_memory("x", b"", 0, 8),
    "cuda-unregister": lambda c: c.unregister_cuda_shared_memory("x"),
    "index": lambda c: c.get_model_repository_index(),
    "load": lambda c: c.load_model("chat"),
    "unload": lambda c: c.unload_model("chat"),
    "logging-read": lambda c: c.get_log_settings(),
    "logging-write": lambda c: c.update_log_settings({"log_verbose_level": 5}),
    "trace-read": lambda c: c.get_trace_settings(),
    "trace-write": lambda c: c.update_trace_settings(settings={"trace_rate": "1"}),
}


@contextlib.contextmanager
def grpc(served: Served) -> Iterator[Any]:
    client = grpc_client.InferenceServerClient(served.grpc)
    try:
        yield client
    finally:
        client.close()


def ask_engine(served: Served, parameters: dict[str, Any] | None = None, **inputs: list[int]) -> Any:
    """Send one request to the engine model by gRPC; return the first answer or the refusal."""
    answers: queue.Queue[Any] = queue.Queue()
    tensors = []
    for name, values in {"input_ids": [1, 2], "input_lengths": [2], "request_output_len": [1], **inputs}.items():
        kind = ("BOOL", np.bool_) if name == "stop" else ("INT32", np.int32)
        tensor = grpc_client.InferInput(name, [1, len(values)], kind[0])
        tensor.set_data_from_numpy(np.array([values], kind[1]))
        tensors.append(tensor)
    with grpc(served) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("tensorrt_llm", tensors, request_id="7", parameters=parameters)
        answer = answers.get(timeout=60)
        client.stop_stream()
    return answer


@pytest.mark.parametrize(("method", "path", "body"), HTTP_CALLS, ids=IDS)
def test_a_restricted_api_refuses_unauthenticated_clients_over_http(
    closed: Served, method: str, path: str, body: Any
) -> None:
    for headers in ({}, {"trtbuild-restricted": ""}, {"trtbuild-restricted": "x" * 64}):
        status, text = closed.ask(method, path, body, **headers)
        assert (status, b"This API is restricted" in text) == (403, True), text


@pytest.mark.parametrize("name", GRPC_CALLS)
def test_a_restricted_api_refuses_unauthenticated_clients_over_grpc(closed: Served, name: str) -> None:
    with grpc(closed) as client, pytest.raises(InferenceServerException, match="This protocol is restricted"):
        GRPC_CALLS[name](client)


@pytest.mark.parametrize(("method", "path", "body"), HTTP_CALLS, ids=IDS)
def test_an_opened_api_is_the_server_s_own_over_http(opened: Served, method: str, path: str, body: Any) -> None:
    status, text = opened.ask(method, path, body)
    assert status != 403, text
    assert b"restricted" not in text


@pytest.mark.parametrize("name", GRPC_CALLS)
def test_an_opened_api_is_the_server_s_own_over_grpc(opened: Served, name: str) -> None:
    with grpc(opened) as client:
        try:
            GRPC_CALLS[name](client)
        except InferenceServerException as error:
            assert "restricted" not in str(error)  # e.g. no such region, no CUDA: its own answer


def test_opened_apis_do_what_they_are_for(opened: Served) -> None:
    index = json.loads(opened.ask("POST", "/v2/repository/index", {})[1])
    assert {"chat", "tensorrt_llm", "ensemble"} <= {model["name"] for model in index}
    assert opened.ask("POST", "/v2/logging", {"log_verbose_level": 0})[0] == 200
    assert opened.ask("GET", "/v2/trace/setting")[0] == 200
    assert opened.ask("GET", "/v2/systemsharedmemory/status")[0] == 200


def test_one_api_is_opened_alone(serve: Serve) -> None:
    served = serve(env={"TRTBUILD_OPEN_API": "model-repository"})
    assert served.ask("POST", "/v2/repository/index", {})[0] == 200
    assert served.ask("GET", "/v2/logging")[0] == 403
    with grpc(served) as client:
        assert len(client.get_model_repository_index().models) == 2
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_log_settings()


def test_a_header_of_the_user_s_own_opens_what_they_restricted(serve: Serve) -> None:
    served = serve("--server-arg", "http-restricted-api=model-repository:admin=sesame")
    assert served.ask("POST", "/v2/repository/index", {})[0] == 403
    assert served.ask("POST", "/v2/repository/index", {}, admin="sesame")[0] == 200
    assert served.ask("GET", "/v2/logging", None, admin="sesame")[0] == 403


def test_the_value_opens_the_apis_and_nothing_tells_it(closed: Served) -> None:
    value, secret = closed.api_value(), closed.environment()["TRTBUILD_ENGINE_SECRET"]
    assert closed.ask("GET", "/v2/logging", None, **{"trtbuild-restricted": value})[0] == 200
    assert value != secret
    assert not any(secret in word for word in closed.argv())
    files = [path for path in closed.store.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
    assert closed.log in files
    for path in files:
        data = path.read_bytes()
        assert value.encode() not in data and secret.encode() not in data, path
    assert value not in closed.said and secret not in closed.said


def test_verbose_logs_do_not_tell_the_engine_s_secret(serve: Serve) -> None:
    served = serve("--log-verbose", "5")
    assert served.generate(text_input="The", max_tokens=3)[0] == 200
    log = served.log.read_text(errors="replace")
    assert "ModelStreamInfer" in log
    assert served.environment()["TRTBUILD_ENGINE_SECRET"] not in log
    assert served.api_value() not in log


def test_every_start_has_secrets_of_its_own(serve: Serve, closed: Served) -> None:
    served = serve()
    assert served.api_value() != closed.api_value()
    assert served.environment()["TRTBUILD_ENGINE_SECRET"] != closed.environment()["TRTBUILD_ENGINE_SECRET"]


def test_a_dry_run_shows_a_line_that_is_as_closed_and_differs_in_its_value_only(closed: Served) -> None:
    command = [
        sys.executable, "-m", "trtbuild", "serve", str(EXAMPLE), "--backend", "cpu", "--name", "chat", "--store",
        str(closed.store), "--dry-run",
    ]  # fmt: skip
    lines = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    values = [set(re.findall(r"trtbuild-restricted=([0-9a-f]{64})\b", line)) for line in lines]
    assert [len(found) for found in values] == [1, 1]
    assert values[0] != values[1] and closed.api_value() not in values[0] | values[1]
    assert len({re.sub(r"[0-9a-f]{64}", "VALUE", line) for line in lines}) == 1


def region_names(served: Served) -> list[str]:
    """Return the names of the shared-memory regions that the server shares with its models."""
    maps = Path(f"/proc/{served.pid}/maps").read_text()
    return sorted(set(re.findall(r"/dev/shm/(\S+)", maps)))


def ask_front_through_region(served: Served, *, is_read: bool) -> str:
    """Let the front model read its prompt from a region named ``evil``, or write its answer there; return the error."""
    answers: queue.Queue[Any] = queue.Queue()
    text = grpc_client.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"The"], np.object_))
    output = grpc_client.InferRequestedOutput("text_output")
    if is_read:
        text.set_shared_memory("evil", 8)
    else:
        output.set_shared_memory("evil", 8)
    with grpc(served) as client:
        client.start_stream(lambda result, error: answers.put(error or ""))
        client.async_stream_infer("chat", [text], outputs=[output])
        answer = str(answers.get(timeout=60))
        client.stop_stream()
    return answer


def test_memory_of_a_model_cannot_be_reached(closed: Served) -> None:
    """The chain of CVE-2025-23319, 23320 and 23334: a name, a region of that name, reading and writing through it.

    Source: https://www.wiz.io/blog/nvidia-triton-cve-2025-23319-vuln-chain-to-ai-server
    """
    names = region_names(closed)  # the worst case: every name is known
    assert len(names) >= 2
    for name in names:
        assert name.startswith("triton_python_backend_shm_region_trtbuild"), "fixed servers refuse it by this beginning"
        region = {"key": f"/{name}", "offset": 0, "byte_size": 4096}
        assert closed.ask("POST", "/v2/systemsharedmemory/region/evil/register", region)[0] == 403
        with grpc(closed) as client, pytest.raises(InferenceServerException, match="restricted"):
            client.register_system_shared_memory("evil", f"/{name}", 4096)
    for is_read in (True, False):
        assert "Unable to find shared memory region: 'evil'" in ask_front_through_region(closed, is_read=is_read)
    assert closed.is_alive()


def test_without_the_restriction_the_chain_would_go_on_here(opened: Served) -> None:
    """The wheel's server is from before 25.07: nothing but the restriction stands between a name and the memory."""
    region = {"key": f"/{region_names(opened)[0]}", "offset": 0, "byte_size": 64}
    assert opened.ask("POST", "/v2/systemsharedmemory/region/evil/register", region)[0] == 200
    assert opened.ask("POST", "/v2/systemsharedmemory/region/evil/unregister")[0] == 200


RESTRICTED_PATHS = ["/v2/logging", "/v2/systemsharedmemory/region/x/register", "/v2/repository/index"]


@pytest.mark.parametrize("path", RESTRICTED_PATHS)
def test_many_chunks_to_a_restricted_path_end_nothing(closed: Served, path: str) -> None:
    """CVE-2025-23310 and 23311: 600,000 chunks end Triton before 25.07 where a path reads its body."""
    answer = closed.send_chunks(path, 600_000)
    assert answer == b"" or b" 403 " in answer or b" 400 " in answer
    assert closed.is_alive()


def test_clients_have_all_they_need(closed: Served) -> None:
    status, answer = closed.generate(text_input="The assert statement", max_tokens=4)
    assert (status, answer["completion_tokens"]) == (200, 4)
    pieces = list(probes.generate(closed.url, "chat", {"text_input": "The", "max_tokens": 4}))
    assert "".join(piece["text_output"] for piece in pieces)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/chat", "/v2/models/chat/config",
                 "/v2/models/chat/stats", "/v2/models/chat/ready"):  # fmt: skip
        assert closed.ask("GET", path)[0] == 200, path
    assert probes.count_outcomes(probes.read_metrics(closed.metrics_url))["chat"]["ok"] >= 2
    with grpc(closed) as client:
        assert client.is_server_ready() and client.is_model_ready("chat")
        assert client.get_model_metadata("chat").name == "chat"
        assert client.get_model_config("chat").config.name == "chat"
        assert client.get_inference_statistics("chat").model_stats[0].name == "chat"
        assert client.get_server_metadata().name == "triton"


def test_the_program_s_own_commands_work(closed: Served) -> None:
    ports = ["--http-port", closed.url.rpartition(":")[2], "--metrics-port", closed.metrics_url.rpartition(":")[2]]
    for command in (["health", "live", *ports], ["health", "ready", *ports], ["drain", *ports[2:], "--timeout", "20"]):
        done = subprocess.run([sys.executable, "-m", "trtbuild", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_engine_model_takes_requests_of_its_front_model_only(closed: Served) -> None:
    body = {"input_ids": [1, 2], "input_lengths": 2, "request_output_len": 1}
    for extra in (
        {},
        {"trtbuild_engine_secret": "guess"},
        {"trtbuild_engine_secret": True},
        {"trtbuild_engine_secret": 7},
    ):
        status, answer = closed.generate("tensorrt_llm", **body, **extra)
        assert (status, "takes requests from its front model only" in answer["error"]) == (400, True), answer
        assert "--layout full" in answer["error"]
        refusal = ask_engine(closed, extra)
        assert "takes requests from its front model only" in str(refusal)
    assert "front model only" in str(ask_engine(closed, stop=[1])), "other clients must not end a request"
    assert closed.generate(text_input="The", max_tokens=2)[0] == 200


def test_the_secret_is_what_opens_the_engine_model(closed: Served) -> None:
    secret = closed.environment()["TRTBUILD_ENGINE_SECRET"]
    answer = ask_engine(closed, {"trtbuild_engine_secret": secret})
    assert answer.as_numpy("output_ids").size == 1


def test_the_full_layout_opens_the_engine_model(opened: Served) -> None:
    assert ask_engine(opened).as_numpy("output_ids").size >= 1  # the whole answer begins with the prompt there
    for model in ("chat", "ensemble", "tensorrt_llm_bls"):
        status, answer = opened.generate(model, text_input="The", max_tokens=3)
        assert status == 200 and answer["text_output"], answer


def test_several_models_of_one_server_share_its_secret(serve: Serve, tmp_path: Path) -> None:
    repository = ["--repository", str(tmp_path / "models")]
    first = [sys.executable, "-m", "trtbuild", str(EXAMPLE), "--backend", "cpu", "--name", "first", "--store",
             str(tmp_path / "store"), *repository]  # fmt: skip
    subprocess.run(first, check=True, capture_output=True)
    served = serve(*repository, "--add-to-repository")
    for model in ("first", "chat"):
        assert served.generate(model, text_input="The", max_tokens=2)[0] == 200
    for engine in ("tensorrt_llm", "chat-tensorrt_llm"):
        status, answer = served.generate(engine, input_ids=[1, 2], input_lengths=2, request_output_len=1)
        assert status == 400 and "front model only" in answer["error"], answer


def test_a_secret_of_the_environment_is_kept(serve: Serve) -> None:
    served = serve(env={"TRTBUILD_ENGINE_SECRET": "shared by two servers"})
    assert served.environment()["TRTBUILD_ENGINE_SECRET"] == "shared by two servers"
    assert ask_engine(served, {"trtbuild_engine_secret": "shared by two servers"}).as_numpy("output_ids").size == 1
    assert served.generate(text_input="The", max_tokens=2)[0] == 200


def test_serve_and_doctor_name_the_holes_of_the_wheel_s_server(closed: Served) -> None:
    doctor = subprocess.run([sys.executable, "-m", "trtbuild", "doctor"], capture_output=True, text=True, check=True)
    for text in (closed.said, doctor.stdout):
        assert "Triton 24.10 has known vulnerabilities" in text
        assert "CVE-2025-23310" in text and "CVE-2025-23334" in text
    assert "listens on this machine only" in closed.said
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "trtbuild", "doctor", "--format", "json"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert found["server"]["version"] == "24.10"
    assert "CVE-2025-23311" in found["server"]["risk"]


def test_serving_beyond_this_machine_is_warned_of(serve: Serve) -> None:
    served = serve("--server-arg", "grpc-address=127.0.0.1", "--host", "0.0.0.0")
    assert "listens on 0.0.0.0, not for networks you do not trust" in served.said
    assert served.ask("GET", "/v2/logging")[0] == 403


def test_without_a_secret_in_the_environment_the_engine_model_is_open(closed: Served, tmp_path: Path) -> None:
    """A tritonserver that is started by hand on the repository has none, and works."""
    environment = closed.environment()
    del environment["TRTBUILD_ENGINE_SECRET"], environment["TRTBUILD_OPENAI"]
    ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    chosen = {"--http-port": ports.http, "--grpc-port": ports.grpc, "--metrics-port": ports.metrics}
    words = [word for word in closed.argv() if word and word.partition("=")[0] not in chosen]
    words = [re.sub(r"_trtbuild\d+r", f"_trtbuild{ports.http}r", word) for word in words]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(
            [*words, *(f"{name}={port}" for name, port in chosen.items())], env=environment, stdout=log, stderr=log
        )
    by_hand = replace(closed, pid=child.pid, url=f"http://127.0.0.1:{ports.http}", grpc=f"127.0.0.1:{ports.grpc}")
    try:
        health.wait_ready(by_hand.url, timeout_s=120, is_alive=lambda: child.poll() is None)
        assert ask_engine(by_hand).as_numpy("output_ids").size == 1
        assert by_hand.generate(text_input="The", max_tokens=2)[0] == 200
    finally:
        child.terminate()
        child.wait(timeout=60)


def test_a_changed_stub_is_not_run(serve: Serve) -> None:
    first = serve()
    (stub,) = first.store.glob("servers/*/python/triton_python_backend_stub")
    stop(first)
    good = stub.read_bytes()
    stub.write_bytes(b"#!/bin/sh\ntouch " + str(first.store / "OWNED").encode() + b"\n")
    assert serve().is_alive()
    assert stub.read_bytes() == good
    assert not (first.store / "OWNED").exists()


def test_a_store_that_a_group_writes_holds_no_program(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o2775)
    served = serve(env={"XDG_CACHE_HOME": str(tmp_path / "own")})
    assert served.is_alive()
    assert not list(served.store.glob("servers/*"))
    assert list((tmp_path / "own").glob("trtbuild/servers/*/python/triton_python_backend_stub"))
