"""The engine process of the llmapi backend, over its socket, with a stand-in for the LLM API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machines import gpu_host
from trtbuild import repository
from trtbuild.backends.llmapi.backend import BACKEND, TEMPLATE
from trtbuild.catalog import ModelInfo, samplers
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.spec import EngineSpec, RepositorySpec

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples" / "pydoc-llama"
FAKE = Path(__file__).resolve().parent / "fake_llmapi" / "tensorrt_llm.py"
WORKER = ROOT / "model_repo_templates" / TEMPLATE / "1"
SHARED = ROOT / "model_repo_templates" / "_shared"
sys.path.insert(0, str(SHARED))

from trtbuild_engine.wire import Reader, encode  # noqa: E402

pytestmark = pytest.mark.integration
DEADLINE_S = 60


def make_plan(**options: Any) -> BuildPlan:
    info = ModelInfo.from_hf_config("local/pydoc-llama", json.loads((MODEL / "config.json").read_text()))
    model = ResolvedModel(
        model_id="local/pydoc-llama", revision="tree-0", source="directory", info=info, directory=MODEL
    )
    return BACKEND.plan(EngineSpec(model="pydoc-llama", **options), model, gpu_host("h100", 2))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    BACKEND.build(make_plan(max_batch_size=2, tp_size=2, kv_cache_dtype="fp8"), MODEL, directory, tmp_path)
    return directory


class Worker:
    """An engine process and the conversation with it."""

    def __init__(self, engine: Path, scratch: Path, **options: Any) -> None:
        ours, theirs = socket.socketpair()
        self._socket, self._reader = ours, Reader(ours)
        ours.settimeout(DEADLINE_S)
        home = scratch / "model"
        shutil.copytree(WORKER, home)
        shutil.copytree(SHARED / "trtbuild_engine", home / "trtbuild_engine")
        shutil.copy(FAKE, home)
        self.record = scratch / "llm.json"
        argv = [sys.executable, str(home / "engine_worker.py"), str(engine), "--socket", str(theirs.fileno())]
        argv += ["--parent", str(os.getpid()), "--options", json.dumps(options)]
        env = {**os.environ, "TRTBUILD_TEST_LLM_RECORD": str(self.record)}
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self.stats: list[dict[str, float]] = []
        self._events: list[dict[str, Any]] = []

    def messages(self) -> list[dict[str, Any]]:
        found = self._reader.read()
        assert found is not None, "the engine process has gone"
        return found

    def first(self) -> dict[str, Any]:
        while not (messages := self.messages()):
            pass
        return messages[0]

    def send(self, **message: Any) -> None:
        self._socket.sendall(encode(message))

    def submit(self, key: int, prompt: list[int], new: int = 4, **options: Any) -> None:
        self.send(submit={"key": key, "input_ids": prompt, "request_output_len": new, "log_probs": False, **options})

    def until_ended(self, *keys: int) -> dict[int, list[dict[str, Any]]]:
        """Return every event of the requests ``keys``, up to the last one of each."""
        events: dict[int, list[dict[str, Any]]] = {key: [] for key in keys}
        open_keys = set(keys)
        while open_keys:
            for message in self.messages():
                if "stats" in message:
                    self.stats.append(message["stats"])
                for event in message.get("step", ()):
                    events[event["key"]].append(event)
                    if {"end", "error"} & set(event):
                        open_keys.discard(event["key"])
        return events

    def close(self) -> int:
        """Close our end; return the exit code."""
        self._socket.close()
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.process.kill()
        self.close()


@pytest.fixture
def worker(engine: Path, tmp_path: Path) -> Iterator[Worker]:
    options = {"kv_cache_free_gpu_mem_fraction": 0.7, "batch_scheduler_policy": "max_utilization"}
    running = Worker(engine, tmp_path, samplers=samplers(), **options)
    try:
        assert running.first()["ready"]["slots"] == 2
        yield running
    finally:
        running.kill()


def tokens(events: list[dict[str, Any]]) -> list[int]:
    return [token for event in events for token in event["tokens"]]


def test_the_llm_gets_what_was_planned(worker: Worker, engine: Path) -> None:
    got = json.loads(worker.record.read_text())
    assert got["model"] == str(engine / "model")
    assert (got["tensor_parallel_size"], got["max_batch_size"], got["skip_tokenizer_init"]) == (2, 2, True)
    assert got["kv_cache_config"] == {"dtype": "fp8", "enable_block_reuse": True, "free_gpu_memory_fraction": 0.7}
    assert got["scheduler_config"] == {"capacity_scheduler_policy": "MAX_UTILIZATION"}
    assert got["sampler_type"] == "TRTLLMSampler", "the default sampler of 1.2.1 ignores penalties and seeds"


def test_tokens_stream_to_the_end(worker: Worker) -> None:
    worker.submit(1, [5, 6, 7])
    events = worker.until_ended(1)[1]
    assert tokens(events) == [8, 9, 10, 11]
    assert len(events) > 1
    assert events[-1]["end"] == "length"
    scheduled, first, last = events[-1]["times"]
    assert 0 < scheduled <= first <= last


def test_waiting_inside_the_llm_api_is_told_apart_from_computing(worker: Worker) -> None:
    began_ns = time.monotonic_ns()
    worker.submit(1, [17])
    scheduled, first, last = worker.until_ended(1)[1][-1]["times"]
    assert began_ns + 0.2e9 < scheduled <= first <= last


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"end_id": 9}, [8]),
        ({"stop_words": [[9]]}, [8, 9]),
        ({"stop_words": [[9, 10]]}, [8, 9, 10]),
        ({"stop_words": [[9]], "min_tokens": 3}, [8, 9, 10, 11]),
        ({"bad_words": [[9], [10]]}, [8, 11, 12, 13]),
        (
            {"sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "is_seeded": True},
            [11, 12, 13, 14],
        ),
    ],
    ids=["end-id", "stop", "stop-sequence", "min-tokens", "bad", "sampling"],
)
def test_where_a_request_ends(worker: Worker, options: dict[str, Any], expected: list[int]) -> None:
    worker.submit(1, [7], **options)
    events = worker.until_ended(1)[1]
    assert tokens(events) == expected
    assert events[-1]["end"] == ("length" if len(expected) == 4 else "stop")


def test_log_probabilities(worker: Worker) -> None:
    worker.submit(1, [7], log_probs=True)
    events = worker.until_ended(1)[1]
    assert [value for event in events for value in event.get("log_probs", ())] == [-0.5] * 4


def test_more_requests_than_slots_wait_their_turn(worker: Worker) -> None:
    for key in range(6):
        worker.submit(key, [100 * key + 1], new=8)
    events = worker.until_ended(*range(6))
    for key, found in events.items():
        assert tokens(found) == [100 * key + n for n in range(2, 10)]
    assert max(stats["scheduled"] for stats in worker.stats) == 2
    assert max(stats["waiting"] for stats in worker.stats) == 4


def test_cancelling_frees_the_slot(worker: Worker) -> None:
    for key in (1, 2, 3):
        worker.submit(key, [7], new=500)
    worker.send(cancel=3)  # still waiting
    assert worker.until_ended(3)[3] == [{"key": 3, "tokens": [], "end": "cancelled", "times": [0, 0, 0]}]
    worker.submit(4, [7], new=3)
    worker.send(cancel=1)
    seen: dict[int, str] = {}
    while not {1, 4} <= set(seen):
        for message in worker.messages():
            for event in message.get("step", ()):
                if "end" in event:
                    seen[event["key"]] = event["end"]
    assert (seen[1], seen[4]) == ("cancelled", "length")


@pytest.mark.parametrize(
    ("prompt", "new", "options", "said", "is_invalid"),
    [
        ([], 4, {}, "the prompt is empty", True),
        ([1], 100_000, {}, "(max_seq_len)", True),
        ([10**6], 4, {}, "the vocabulary is 0..", True),
        ([1], 4, {"bad_words": [[1, 2]]}, "single tokens only, got the sequence [1, 2]", True),
        ([1], 4, {"sample": True, "temperature": 1, "top_p": 1.5, "top_k": 0, "seed": 1}, "refused the request", True),
        ([13], 8, {}, "the engine failed: RuntimeError: CUDA error", False),
        ([19], 8, {}, "the engine failed: LookupError: request 4711 is unknown", False),
    ],
    ids=["empty", "too-long", "token", "bad-sequence", "refused", "failure", "another-failure"],
)
def test_errors_are_per_request(
    worker: Worker, prompt: list[int], new: int, options: dict[str, Any], said: str, is_invalid: bool
) -> None:
    worker.submit(1, prompt, new=new, **options)
    worker.submit(2, [7])
    events = {1: [], 2: []} | worker.until_ended(1, 2)
    assert said in events[1][-1]["error"]
    assert events[1][-1].get("invalid", False) == is_invalid
    assert tokens(events[2]) == [8, 9, 10, 11]


def test_any_failure_frees_the_slot(worker: Worker) -> None:
    for key in range(4):  # two slots
        worker.submit(key, [19], new=8)
    worker.until_ended(*range(4))
    worker.submit(9, [7])
    assert tokens(worker.until_ended(9)[9]) == [8, 9, 10, 11]


PENALTY = {"repetition_penalty": 1.3}
SEED = {"sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 5, "seed": 3, "is_seeded": True}
BAD = {"bad_words": [[8]]}


@pytest.mark.parametrize("version", ["1.0.3", "1.1.0", "1.2.1", "1.3.0rc25", "1.3.0rc26", "1.4.0rc4"])
def test_every_version_applies_what_is_asked(
    version: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seed, same answer; a penalty is a penalty: with the sampler that the version has for it."""
    monkeypatch.setenv("TRTBUILD_TEST_TRTLLM_VERSION", version)
    running = Worker(engine, tmp_path, samplers=samplers())
    try:
        running.first()
        for key, options in enumerate(({}, PENALTY, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, SEED, BAD)):
            running.submit(key, [7], new=3, **options)
        events = running.until_ended(*range(6))
    finally:
        running.kill()
    assert tokens(events[0]) == [8, 9, 10]
    assert [tokens(events[key]) for key in (1, 2, 3)] == [[9, 11, 13]] * 3
    assert tokens(events[4]) == [11, 12, 13]
    assert tokens(events[5]) == [9, 10, 11]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (PENALTY, "repetition_penalty"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"frequency_penalty": -1.0}, "frequency_penalty"),
        (SEED, "seed"),
        (BAD, "bad_words_list"),
    ],
    ids=["repetition", "presence", "frequency", "seed", "bad-words"],
)
def test_what_a_version_would_ignore_is_refused_by_name(
    options: dict[str, Any], name: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTBUILD_TEST_TRTLLM_VERSION", "1.1.0rc0")  # no row of the table has it
    running = Worker(engine, tmp_path, samplers=samplers())
    try:
        running.first()
        running.submit(1, [7], **options)
        running.submit(2, [7], **{**SEED, "is_seeded": False}, repetition_penalty=1.0)
        events = running.until_ended(1, 2)
    finally:
        running.kill()
    (refused,) = events[1]
    assert refused["invalid"]
    assert refused["error"] == f"{name}: the LLM API of TensorRT-LLM 1.1.0rc0 would ignore it; leave it out"
    assert tokens(events[2]) == [8, 9, 10, 11], "a request without a seed is not refused for it"


def test_closing_the_socket_shuts_the_llm_down(worker: Worker) -> None:
    worker.submit(1, [7], new=500)
    assert worker.close() == 0
    assert worker.record.with_suffix(".shutdown").exists()


def test_a_model_that_cannot_be_loaded_says_why(engine: Path, tmp_path: Path) -> None:
    (engine / "model" / "config.json").unlink()
    running = Worker(engine, tmp_path)
    assert "no config.json in" in running.first()["fatal"]
    assert running.close() == 1


def test_the_repository_is_whole(engine: Path, tmp_path: Path) -> None:
    info = BACKEND.inspect(engine)
    assert info.world_size == 1, "the LLM API starts its own ranks"
    model = repository.ServedModel(
        served_name="chat",
        engine_template=BACKEND.template(info, engine, RepositorySpec(kv_cache_free_gpu_mem_fraction=0.5)),
        engine_info=info,
        tokenizer_dir=MODEL,
    )
    root = repository.write_repository(tmp_path / "repository", [model])
    files = {path.name for path in (root / "tensorrt_llm" / "1").iterdir()}
    assert {"model.py", "engine_worker.py", "trtbuild_engine", "trtbuild_server.py"} <= files
    config = (root / "tensorrt_llm" / "config.pbtxt").read_text()
    assert "kv_cache_free_gpu_mem_fraction" in config
    assert json.dumps(json.dumps(samplers())) in config, "the engine process learns from here what its version applies"
    assert str(engine) in config
