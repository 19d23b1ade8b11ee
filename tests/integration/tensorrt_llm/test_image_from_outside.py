"""NVIDIA's image played from outside: the real command line, the tools as recording stand-ins, a hub of our own.

Nothing of trtbuild is patched: what is installed, what is on PATH, the GPUs and the file systems are those of a
directory (``tests.fakes.image``). A model of 70 billion parameters has a few weights here; everything else about it is
real.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.fakes.image import Image
from tests.hub_stub import HubStub

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "pydoc-llama"
BIG, SMALL = "meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"
# This image has no httptools, which the OpenAI port needs.
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--openai-port", "0")
DATA = "abisee/cnn_dailymail@" + "a" * 40


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStub]:
    files = {path.name: path.read_bytes() for path in EXAMPLE.iterdir() if path.is_file()}
    with HubStub(token="hf_secret", granted=(BIG,)) as stub:
        stub.add_repo(BIG, files, is_gated=True)
        stub.add_repo(SMALL, files)
        yield stub


@pytest.fixture(scope="module")
def image(hub: HubStub, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Four H100 with TensorRT-LLM 1.2.1, and an engine of the big model in the store."""
    directory = tmp_path_factory.mktemp("machine")
    image = Image(directory=directory, endpoint=hub.endpoint, env={"HF_TOKEN": "hf_secret"})
    document = image.json("llama-3-70b-instruct", "--tp", "4")
    assert document["hit"] is False
    return image


def engine_of(image: Image, sku: str = "NVIDIA-H100-80GB-HBM3") -> Path:
    [entry] = (image.directory / "store" / "engines" / BIG.replace("/", "--") / sku).glob("tp4-pp1-bfloat16-*")
    return entry


def models_of(repository: Path) -> dict[str, Any]:
    """Return the parsed configuration of every model; strict, as the server reads it."""
    found = {}
    for path in sorted(repository.glob("*/config.pbtxt")):
        text = path.read_text()
        assert "${" not in text
        found[path.parent.name] = text_format.Parse(text, model_config_pb2.ModelConfig())
    return found


def weights_asked(hub: HubStub, since: int) -> list[str]:
    return [r.path for r in hub.requests[since:] if r.server == "storage" or "/resolve/" in r.path]


def test_an_engine_is_built_published_and_found_again(image: Image, hub: HubStub) -> None:
    entry = engine_of(image)
    names = {path.name for path in entry.iterdir()}
    assert names >= {"config.json", "manifest.json", "tokenizer", *(f"rank{rank}.engine" for rank in range(4))}
    config = json.loads((entry / "config.json").read_text())
    assert config["pretrained_config"]["dtype"] == "bfloat16"
    assert config["pretrained_config"]["mapping"]["tp_size"] == 4
    plugins = config["build_config"]["plugin_config"]
    assert (plugins["gemm_plugin"], plugins["gpt_attention_plugin"]) == ("bfloat16", "bfloat16")
    manifest = json.loads((entry / "manifest.json").read_text())
    told = json.dumps(manifest)
    assert all(text in told for text in ("10.14.1.48", "1.2.1", "13.1.0", "NVIDIA-H100-80GB-HBM3"))
    assert "hf_secret" not in told
    serving = manifest["provenance"]["serving"]
    assert (serving["kv_cache_free_gpu_mem_fraction"], serving["enable_kv_cache_reuse"]) == ("0.9", "true")
    assert "gpt_model_path" not in serving
    seen = len(hub.requests)
    again = image.json("llama-3-70b-instruct", "--tp", "4")
    assert again["hit"] is True
    assert [request.path.rsplit("/", 2)[-2:] for request in hub.requests[seen:]] == [["revision", "main"]]


def test_both_layouts_are_written_for_the_cpp_backend(image: Image) -> None:
    minimal = models_of(Path(image.run("llama-3-70b-instruct", "--tp", "4").stdout.strip()))
    assert set(minimal) == {"llama-3-70b-instruct", "tensorrt_llm"}
    engine = minimal["tensorrt_llm"]
    assert (engine.backend, engine.max_batch_size) == ("tensorrtllm", 128)
    assert engine.parameters["gpt_model_path"].string_value == str(engine_of(image))
    tokenizer = Path(engine.parameters["tokenizer_dir"].string_value)
    whole, given = (json.loads((path / "tokenizer.json").read_text()) for path in (tokenizer, EXAMPLE))
    assert whole["model"] == given["model"]
    target = image.directory / "full"
    image.run("llama-3-70b-instruct", "--tp", "4", "--layout", "full", "--repository", str(target))
    full = models_of(target)
    more = {"preprocessing", "postprocessing", "ensemble", "tensorrt_llm_bls"}
    assert set(full) == {*minimal, *more}
    steps = [step.model_name for step in full["ensemble"].ensemble_scheduling.step]
    assert steps == ["preprocessing", "tensorrt_llm", "postprocessing"]


def ranks_of(words: list[str]) -> list[list[str]]:
    """Return the words of each rank of an mpirun line, after the words before the first."""
    assert Path(words[0]).name == "mpirun"
    ranks: list[list[str]] = [[]]
    for word in words[words.index("-n") :]:
        if word == ":":
            ranks.append([])
        else:
            ranks[-1].append(word)
    return ranks


def check_ranks(image: Image, words: list[str]) -> None:
    ranks = ranks_of(words)
    assert len(ranks) == 4
    for rank, own in enumerate(ranks):
        assert own[:2] == ["-n", "1"]
        assert "--disable-auto-complete-config" in own
        assert any(word.startswith("--backend-config=python,shm-region-prefix-name=") for word in own)
        assert ("--load-model=tensorrt_llm" in own) == ("--allow-http=false" in own) == (rank > 0)
    prefixes = {word for own in ranks for word in own if "shm-region-prefix-name" in word}
    assert len(prefixes) == 4
    assert f"--model-repository={image.directory}/store/repositories/llama-3-70b-instruct" in ranks[0]


def test_serving_starts_one_server_per_rank(image: Image) -> None:
    shown = image.run("serve", "llama-3-70b-instruct", "--tp", "4", "--dry-run", "--openai-port", "0").stdout
    check_ranks(image, shlex.split(shown))
    assert "--http-port=8000" in shown
    assert not image.record.exists()
    done = image.run("serve", "llama-3-70b-instruct", "--tp", "4", *ANY_PORTS)
    assert done.stdout == "stand-in started\n"
    started = json.loads(image.record.read_text())
    image.record.unlink()
    check_ranks(image, started["argv"])
    assert "TRTLLM_ORCHESTRATOR" not in started["env"]
    image.run("serve", "llama-3-70b-instruct", "--tp", "4", "--orchestrator", *ANY_PORTS)
    one = json.loads(image.record.read_text())
    image.record.unlink()
    assert Path(one["argv"][0]).name == "tritonserver"
    assert one["env"]["TRTLLM_ORCHESTRATOR"] == "1"


def test_a_server_that_would_hang_is_not_started(image: Image) -> None:
    small = replace(image, shm_mib=64)
    done = small.run("serve", "llama-3-70b-instruct", "--tp", "4", *ANY_PORTS, code=9)
    assert "error: /dev/shm: 64.0 MiB, expected at least 1.1 GiB for 4 ranks" in done.stderr
    assert "--shm-size=2g" in done.stderr
    few = replace(image, gpus=image.gpus[:2])
    done = few.run("serve", "llama-3-70b-instruct", "--tp", "4", *ANY_PORTS, code=3)
    assert "--tp 4 --pp 1 needs 4 GPUs, 2 are visible" in done.stderr
    assert "nearest possible: --tp 2 --pp 1" in done.stderr
    assert not image.record.exists()


def test_an_engine_of_another_gpu_or_tensorrt_is_never_served(image: Image) -> None:
    """Each machine gets its own; what differs is said."""
    older = replace(image, tensorrt="10.9.0.34")
    lines = older.run("explain", "llama-3-70b-instruct", "--tp", "4").stdout.splitlines()
    assert lines[0].startswith("miss: ")
    assert [line.strip() for line in lines if "in the store" in line] == [
        "tensorrt: 10.9.0.34 here, 10.14.1.48 in the store"
    ]
    other = replace(image, gpus=("NVIDIA H200",) * 4, env={**image.env, "TRTBUILD_REPOSITORY": f"{image.directory}/h2"})
    done = other.run("serve", "llama-3-70b-instruct", "--tp", "4", *ANY_PORTS)
    assert "gpu_product: NVIDIA-H200 here, NVIDIA-H100-80GB-HBM3 in the store" in done.stderr
    image.record.unlink()
    served = models_of(image.directory / "h2")["tensorrt_llm"].parameters["gpt_model_path"].string_value
    assert served == str(engine_of(image, "NVIDIA-H200"))


def test_doctor_says_what_can_be_done_here(image: Image) -> None:
    text = image.run("doctor").stdout
    assert "version    tensorrt 10.14.1.48" in text
    assert "GPU 3      NVIDIA-H100-80GB-HBM3, capability 9.0, 81559 MiB" in text
    assert "yes tensorrt_llm  TensorRT-LLM 1.2.1 on 4 x NVIDIA-H100-80GB-HBM3: float32 float16 bfloat16;" in text
    assert "yes llmapi        TensorRT-LLM 1.2.1 (LLM API) on NVIDIA-H100-80GB-HBM3" in text
    assert f"store      {image.directory}/store" in text
    document = replace(image, version="0.16.0").json("doctor")
    assert document["host"]["versions"]["tensorrt_llm"] == "0.16.0"
    assert len(document["host"]["gpus"]) == 4
    assert document["backends"]["tensorrt_llm"]["works"] is False
    assert "supported are 0.17.0 to 1.2.1" in document["backends"]["tensorrt_llm"]["reason"]
    assert document["backends"]["llmapi"]["works"] is False


A100 = ("NVIDIA A100-SXM4-80GB",) * 4


@pytest.mark.parametrize(
    ("change", "words", "code", "said"),
    [
        ({"gpus": A100}, "--tp 4 --quantization fp8 --calibration " + DATA, 3,
         ["has no kernels for it", "nearest possible: --quantization int8-weight-only"]),
        ({"gpus": ("Tesla V100-SXM2-32GB",) * 4}, "--tp 4 --backend tensorrt_llm", 3,
         ["does not support volta", "8.0 or later"]),
        ({}, "--tp 3", 2, ["64 attention heads, which 3 does not divide", "nearest possible: --tp 2"]),
        ({}, "--tp 1", 3, ["does not fit NVIDIA-H100-80GB-HBM3", "it fits with --tp 2 --pp 1"]),
        ({}, "--tp 4 --build-option gemm_plugn=auto", 2, ["did you mean 'gemm_plugin'?"]),
        ({}, "--tp 4 --max-batch-size 7 --template-parameter decodng_mode=top_k", 2, ["did you mean 'decoding_mode'?"]),
        ({}, "--tp 4 --quantization fp8 --calibration ./absent", 2, ["absent is not a directory"]),
        ({"env": {"TRTBUILD_TRTLLM_EXAMPLES": "/nowhere"}}, "--tp 4 --max-batch-size 7", 3,
         ["the conversion script is not there: tried /app/examples/models/core/llama/convert_checkpoint.py"]),
        ({"version": "0.16.0"}, "--tp 4", 3, ["24.12-trtllm-python-py3) is too old", "25.07-trtllm-python-py3 to"]),
        ({"version": "1.3.0rc22"}, "--tp 4 --backend tensorrt_llm", 3,
         ["trtllm-build was removed after 1.3.0rc20", "26.07-trtllm-python-py3, the last image", "--backend llmapi"]),
        ({"tools": ("mpirun", "tritonserver", "nvidia-smi")}, "--tp 4 --backend tensorrt_llm", 3,
         ["trtllm-build is not on PATH", "26.07-trtllm-python-py3", "--backend llmapi"]),
    ],
    ids=["fp8-on-a100", "v100", "tp-3", "too-big", "build-option", "template-parameter", "calibration", "no-scripts",
         "too-old", "removed", "no-compiler"],
)  # fmt: skip
def test_the_impossible_is_refused_before_weights_are_asked_for(
    image: Image, hub: HubStub, change: dict[str, Any], words: str, code: int, said: list[str]
) -> None:
    seen = len(hub.requests)
    changed = replace(image, **{**change, "env": {**image.env, **change.get("env", {})}})
    # A cache of its own: nothing may be taken from the first download either.
    changed.env["HF_HOME"] = str(image.directory / "other-hf")
    done = changed.run("llama-3-70b-instruct", *shlex.split(words), code=code)
    assert all(text in done.stderr for text in said), done.stderr
    assert weights_asked(hub, seen) == []
    assert not (image.directory / "other-hf" / "hub").exists() or not list(
        (image.directory / "other-hf").rglob("*.safetensors")
    )


@pytest.mark.parametrize(
    ("fail", "code", "said", "tail"),
    [
        ("convert:killed", 5, "out of host memory, needs about 33.9 GiB", "[TRT-LLM] [I] working"),
        ("build:gpu-memory", 6, "the GPU ran out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB."),
        ("build:partial", 6, "the engine is incomplete: rank0.engine is missing", "Total time of building"),
    ],
)
def test_a_failed_tool_is_explained_with_its_log(image: Image, fail: str, code: int, said: str, tail: str) -> None:
    failing = replace(image, env={**image.env, "TRTBUILD_TEST_FAIL": fail})
    done = failing.run("llama-3-8b-instruct", "--dtype", "float16", code=code)
    assert re.search(rf"^  \| .*{re.escape(tail)}", done.stderr, re.MULTILINE)
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert said in error
    [kept] = re.findall(r"\(whole log: (.+)\)$", error)
    assert tail in Path(kept).read_text()
    assert not list((image.directory / "store").glob(f"engines/{SMALL.replace('/', '--')}/*/*/manifest.json"))


def test_a_second_engine_of_the_gpu_uses_the_timings_of_the_first(image: Image) -> None:
    [cache] = (image.directory / "store" / "timing" / "NVIDIA-H100-80GB-HBM3").glob("10.14.1.48*")
    first = cache.read_text()
    assert "kernels for 128 requests" in first
    image.run("llama-3-70b-instruct", "--tp", "4", "--max-batch-size", "16")
    assert cache.read_text() == f"{first}kernels for 16 requests\n"


def test_the_llm_api_serves_where_engines_are_gone(image: Image) -> None:
    newest = replace(image, version="1.3.0rc22", env={**image.env, "TRTBUILD_REPOSITORY": f"{image.directory}/llmapi"})
    done = newest.run("llama-3-70b-instruct", "--tp", "4", "--kv-cache-dtype", "fp8")
    assert "warning: llmapi is used: tensorrt_llm: TensorRT-LLM 1.3.0rc22 cannot build engines" in done.stderr
    models = models_of(Path(done.stdout.strip()))
    assert set(models) == {"llama-3-70b-instruct", "tensorrt_llm"}
    engine = models["tensorrt_llm"]
    assert engine.backend == "python"
    assert engine.model_transaction_policy.decoupled, "the launcher turns auto-complete off, so it must be said here"
    entry = Path(engine.parameters["engine_dir"].string_value)
    arguments = yaml.safe_load((entry / "model.yaml").read_text())
    assert arguments == {
        "model": "model", "backend": "pytorch", "dtype": "bfloat16", "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1, "max_batch_size": 128, "max_input_len": 8191, "max_seq_len": 8192,
        "max_num_tokens": 8192, "skip_tokenizer_init": True, "trust_remote_code": False,
        "kv_cache_config": {"dtype": "fp8"},
    }  # fmt: skip
    assert (entry / "model" / "model.safetensors").is_file()
    line = newest.run("serve", "llama-3-70b-instruct", "--tp", "4", "--kv-cache-dtype", "fp8", "--dry-run").stdout
    assert not any(word.endswith("/mpirun") for word in shlex.split(line)), "the LLM API starts its own ranks"


def test_a_plan_for_another_machine_needs_neither_gpu_nor_network(image: Image, hub: HubStub) -> None:
    seen = len(hub.requests)
    laptop = replace(image, gpus=(), tools=(), env={})
    table = laptop.run("plan", "llama-3-70b-instruct").stdout.splitlines()
    assert table[0].startswith(f"{BIG}, 70,553,706,496 parameters; TensorRT-LLM 1.2.1")
    [h100] = [line.split() for line in table if line.startswith("NVIDIA-H100-80GB-HBM3")]
    assert h100[1] == "2x1"
    [none] = [line for line in table if line.startswith("not on: ")]
    assert "Tesla-V100-SXM2-32GB" in none
    assert any("--gpu NVIDIA-A10 --tp 8" in line for line in table)
    plan = laptop.json("plan", "llama-3-70b-instruct", "--gpu", "h100", "--tp", "4")
    assert (plan["sku"], plan["revision"], plan["shape"]["dtype"]) == ("NVIDIA-H100-80GB-HBM3", None, "bfloat16")
    assert all("bfloat16" in step for step in plan["steps"])
    refused = laptop.run("plan", "llama-3-70b-instruct", "--gpu", "a100", "--tp", "4", "--quantization", "fp8", code=3)
    assert "nearest possible: --quantization int8-weight-only" in refused.stderr
    assert len(hub.requests) == seen


def test_values_for_the_chart_deploy_the_plan(image: Image) -> None:
    from tests.chart.helm import container, engine_config, merge, render

    words = f"plan llama-3-70b-instruct --gpu h100 --tp 4 --quantization fp8 --calibration {DATA} --name chat"
    served = "--template-parameter multi_block_mode=true --max-queue-size 9 --layout full"
    values = yaml.safe_load(image.run(*words.split(), *served.split(), "--values").stdout)
    rendered = render(merge(values, {"image": {"repository": "registry.example/trtbuild-server"}}))
    engine = engine_config(rendered, "h100")
    wanted = {
        "model": "llama-3-70b-instruct", "tp_size": 4, "pp_size": 1, "dtype": "bfloat16", "quantization": "fp8",
        "calibration": DATA, "served_name": "chat", "layout": "full", "max_queue_size": 9, "max_batch_size": 128,
    }  # fmt: skip
    assert {name: engine[name] for name in wanted} == wanted
    assert engine["template_parameter"] == {"multi_block_mode": "true"}
    pod = rendered.sku("Deployment", "h100")["spec"]["template"]["spec"]
    assert container(pod, "init")["resources"]["requests"]["memory"] == "267Gi"
    limits = [item["resources"]["limits"] for item in pod["containers"] if "resources" in item]
    assert any(str(limit.get("nvidia.com/gpu")) == "4" and limit["memory"] == "94Gi" for limit in limits)
