"""The engine computes what transformers computes: token for token in float32, alone and inside a batch.

The reference was recorded by ``tools/record_cpu_reference.py``; neither torch nor transformers is needed here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.data.cpu_parity import checkpoints
from trtbuild import backends
from trtbuild.catalog import ModelInfo
from trtbuild.errors import ConvertError, FetchError
from trtbuild.host import inspect_host
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.spec import EngineSpec

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
REFERENCE = json.loads((ROOT / "tests/data/cpu_parity/reference.json").read_text())
NEW_TOKENS = 48


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    """The program of the engine process, as a module."""
    templates = ROOT / "model_repo_templates"
    directories = [str(templates / "tensorrt_llm/cpu/1"), str(templates / "_shared")]
    sys.path[:0] = directories
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield importlib.import_module("engine_worker")
    finally:
        sys.dont_write_bytecode = written
        for directory in directories:
            sys.path.remove(directory)
        for name in [name for name in sys.modules if name.startswith(("engine_worker", "trtbuild_engine"))]:
            sys.modules.pop(name, None)


def make_plan(snapshot: Path, **spec: Any) -> BuildPlan:
    info = ModelInfo.from_hf_config("local/tiny", json.loads((snapshot / "config.json").read_text()))
    model = ResolvedModel(model_id="local/tiny", revision="tree-0", source="directory", info=info)
    return backends.get("cpu").plan(EngineSpec(model="tiny", **spec), model, inspect_host(os.environ))


def build(snapshot: Path, root: Path, **spec: Any) -> Path:
    engine, work = root / "engine", root / "work"
    engine.mkdir(parents=True)
    work.mkdir()
    backends.get("cpu").build(make_plan(snapshot, **spec), snapshot, engine, work)
    return engine


def generate(engine: Any, requests: list[dict[str, Any]]) -> list[tuple[list[int], list[float]]]:
    """Give all requests to the engine at once; return tokens and log probabilities of each."""
    for key, options in enumerate(requests):
        assert engine.submit({"key": key, "request_output_len": NEW_TOKENS, **options}) is None
    made: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    while engine.has_work:
        for event in engine.step():
            assert "error" not in event, event
            made[event["key"]][0].extend(event["tokens"])
            made[event["key"]][1].extend(event.get("log_probs", ()))
    return made


@pytest.mark.parametrize("name", list(checkpoints.CONFIGS))
def test_every_family_equals_the_reference(name: str, tmp_path: Path, worker: ModuleType) -> None:
    expected = REFERENCE["checkpoints"][name]
    digest = checkpoints.write_checkpoint(name, tmp_path / "snapshot")
    assert digest == expected["sha256"], "the checkpoint is not the one the reference was recorded with"
    # Beyond its original context, longrope takes other frequencies; the plan cannot know that of a tiny model.
    limits = {"max_seq_len": 128} if name == "phi3-longrope" else {}
    engine = worker.Engine(build(tmp_path / "snapshot", tmp_path, **limits), {})
    requests = [{"input_ids": prompt, "log_probs": True} for prompt in checkpoints.prompts()]
    batched = generate(engine, requests)
    alone = [generate(engine, [request])[0] for request in requests]
    assert [tokens for tokens, _ in batched] == expected["tokens"]
    assert [tokens for tokens, _ in alone] == expected["tokens"]
    for (_, log_probs), recorded in zip(batched, expected["log_probs"], strict=True):
        np.testing.assert_allclose(log_probs, recorded, atol=1e-3)


@pytest.mark.parametrize("spec", [{}, {"quantization": "int8-weight-only"}], ids=["float32", "int8"])
def test_the_trained_example_says_what_it_was_trained_to_say(
    spec: dict[str, Any], tmp_path: Path, worker: ModuleType
) -> None:
    lines = (ROOT / "examples/pydoc-llama/greedy.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    if spec:  # eight bits may decide otherwise where two tokens are nearly equal
        answers = [answer for answer in answers if answer["smallest_gap"] > 0.5]
    assert len(answers) >= 5
    engine = worker.Engine(build(ROOT / "examples/pydoc-llama", tmp_path, **spec), {})
    requests = [
        {"input_ids": answer["prompt_ids"], "request_output_len": len(answer["output_ids"]) + answer["is_finished"]}
        for answer in answers
    ]
    made = generate(engine, [{**request, "end_id": 2} for request in requests])
    assert [tokens for tokens, _ in made] == [answer["output_ids"] for answer in answers]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, worker: ModuleType) -> Any:
    root = tmp_path_factory.mktemp("llama")
    checkpoints.write_checkpoint("llama", root / "snapshot")
    return worker.Engine(build(root / "snapshot", root), {})


@pytest.mark.parametrize("name", list(REFERENCE["variants"]))
def test_options_change_greedy_decoding_as_in_transformers(name: str, llama: Any) -> None:
    variant = REFERENCE["variants"][name]
    request = {"input_ids": checkpoints.prompts()[1], **variant["options"]}
    plain = {"input_ids": checkpoints.prompts()[2]}
    assert variant["tokens"] != REFERENCE["checkpoints"]["llama"]["tokens"][1]
    assert generate(llama, [request])[0][0] == variant["tokens"]
    assert [tokens for tokens, _ in generate(llama, [plain, request])] == [
        REFERENCE["checkpoints"]["llama"]["tokens"][2],
        variant["tokens"],
    ]


@pytest.mark.parametrize(("stored", "dtype"), [("BF16", "bfloat16"), ("F16", "float16")], ids=["bfloat16", "float16"])
def test_half_weights_keep_every_bit(stored: str, dtype: str, tmp_path: Path, worker: ModuleType) -> None:
    """A checkpoint of 16-bit weights gives the same tokens kept as it is and widened to float32 beforehand."""
    checkpoints.write_checkpoint("qwen3", tmp_path / "snapshot", dtype=stored, shards=3)
    requests = [{"input_ids": prompt, "log_probs": True} for prompt in checkpoints.prompts()]
    as_stored, widened = (
        generate(worker.Engine(build(tmp_path / "snapshot", tmp_path / choice, dtype=choice), {}), requests)
        for choice in (dtype, "float32")
    )
    assert [tokens for tokens, _ in as_stored] == [tokens for tokens, _ in widened]
    np.testing.assert_allclose(as_stored[0][1], widened[0][1], atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "size", "distance"),
    [
        pytest.param({"quantization": "int8-weight-only"}, 0.35, 0.2, id="int8"),
        pytest.param({"quantization": "int4-weight-only"}, 0.35, 1.5, id="int4"),
        pytest.param({"kv_cache_dtype": "int8"}, 1.1, 0.2, id="int8 cache"),
    ],
)
def test_smaller_types_give_the_same_alone_and_batched(
    spec: dict[str, Any], size: float, distance: float, tmp_path: Path, worker: ModuleType
) -> None:
    checkpoints.write_checkpoint("llama", tmp_path / "snapshot")
    path = build(tmp_path / "snapshot", tmp_path, **spec)
    weights = (tmp_path / "snapshot" / "model.safetensors").stat().st_size
    assert (path / "openvino_model.bin").stat().st_size < weights * size
    engine = worker.Engine(path, {})
    requests = [{"input_ids": prompt, "log_probs": True} for prompt in checkpoints.prompts()]
    batched = generate(engine, requests)
    assert [generate(engine, [request])[0][0] for request in requests] == [tokens for tokens, _ in batched]
    first = [log_probs[0] for _, log_probs in batched]
    recorded = [log_probs[0] for log_probs in REFERENCE["checkpoints"]["llama"]["log_probs"]]
    # Same first token or not, its probability must be near; random weights are the worst case for rounding.
    assert np.abs(np.subtract(first, recorded)).max() < distance


def test_cache_reuse_chunks_and_eviction_change_no_token(tmp_path: Path, worker: ModuleType) -> None:
    checkpoints.write_checkpoint("llama", tmp_path / "snapshot")
    path = build(tmp_path / "snapshot", tmp_path, kv_cache_tokens=512, max_seq_len=512, max_num_tokens=64)
    random = np.random.RandomState(3)
    head = [int(token) for token in random.randint(3, 320, size=70)]
    requests = [{"input_ids": [*head, 5 + number]} for number in range(10)]
    results = [
        generate(worker.Engine(path, options), requests)
        for options in (
            {},
            {"enable_kv_cache_reuse": False},
            {"enable_chunked_context": False},
            {"batch_scheduler_policy": "max_utilization"},
            {"max_batch_size": 1},
        )
    ]
    assert all(len(tokens) == NEW_TOKENS for tokens, _ in results[0])
    assert all(result == results[0] for result in results[1:])


def test_a_cancelled_request_makes_room_for_one_that_fills_the_pool(tmp_path: Path, worker: ModuleType) -> None:
    checkpoints.write_checkpoint("llama", tmp_path / "snapshot")
    path = build(tmp_path / "snapshot", tmp_path, kv_cache_tokens=512, max_seq_len=512)
    engine = worker.Engine(path, {})
    prompt = [3 + token % 300 for token in range(490)]
    engine.submit({"key": 0, "input_ids": prompt, "request_output_len": 20})
    engine.submit({"key": 1, "input_ids": prompt[::-1], "request_output_len": 20})
    for _ in range(6):
        engine.step()
    assert (len(engine.active), len(engine.waiting)) == (1, 1)
    assert engine.cancel(0)["end"] == "cancelled"
    assert engine.cancel(0) is None
    events = []
    while engine.has_work:
        events += engine.step()
    assert [event["key"] for event in events if "end" in event] == [1]
    assert sum(len(event["tokens"]) for event in events) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "the files lack", id="missing"),
        pytest.param(
            lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.lora": np.ones((2, 2), np.float32)}),
            "files hold .*q_proj.lora.*would ignore",
            id="extra",
        ),
        pytest.param(
            lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": np.ones((128, 32), np.float32)}),
            r"expected shape \(128, 64\) by config.json",
            id="wrong shape",
        ),
    ],
)
def test_weights_that_do_not_belong_to_the_config_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    checkpoints.write_checkpoint("llama", tmp_path / "snapshot")
    tensors = checkpoints.make_tensors(checkpoints.CONFIGS["llama"], 1)
    change(tensors)
    (tmp_path / "snapshot" / "model.safetensors").write_bytes(checkpoints.safetensors_bytes(tensors))
    with pytest.raises((ConvertError, FetchError), match=message):
        build(tmp_path / "snapshot", tmp_path)
