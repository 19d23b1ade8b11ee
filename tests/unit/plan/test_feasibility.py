"""Impossible combinations are refused with the fact they collide with and the nearest possible one."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.machines import gpu_host
from trtbuild import catalog
from trtbuild.catalog import GpuSku, ModelInfo
from trtbuild.plan import feasibility
from trtbuild.plan.memory import GIB, Layout, Limits
from trtbuild.plan.problem import Problem
from trtbuild.plan.rope import rope_problem
from trtbuild.spec import HostInfo

FIRST_SAFE = "an image with TensorRT-LLM 0.20.0 or later, from nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3 on"
RELEASE = catalog.trtllm("1.2.1")
LIMITS = Limits(max_batch_size=64, max_seq_len=2048, max_num_tokens=8192)


def named(alias: str) -> ModelInfo:
    model = catalog.find_model(alias)
    assert model is not None
    return model


def gpu(name: str) -> GpuSku:
    sku = catalog.find_sku(name)
    assert sku is not None
    return sku


def first_problem(
    alias: str,
    sku: str,
    *,
    version: str = "1.2.1",
    gpus: int | None = None,
    quantization: str = "none",
    dtype: str = "bfloat16",
    kv_cache_dtype: str = "auto",
    tp_size: int = 1,
    pp_size: int = 1,
) -> Problem | None:
    layout = Layout(
        dtype=dtype,
        preset=catalog.preset(quantization),
        kv_cache_dtype=kv_cache_dtype,
        tp_size=tp_size,
        pp_size=pp_size,
    )
    return next(
        feasibility.problems(
            named(alias),
            layout,
            release=catalog.trtllm(version),
            architecture=gpu(sku).architecture,
            product=gpu(sku).product,
            gpus=gpus,
        ),
        None,
    )


@pytest.mark.parametrize(
    ("alias", "sku", "options", "reason", "remedy"),
    [
        ("llama-3-8b", "h100", {"tp_size": 3}, "32 attention heads, which 3 does not divide", "--tp 2 "),
        ("phi-4", "h100", {"tp_size": 4}, "10 key/value heads", "--tp 5 "),
        ("qwen2.5-0.5b-instruct", "h100", {"tp_size": 7}, "2 key/value heads", "--tp 2 (possible: 1, 2)"),
        ("falcon-7b", "a100", {"tp_size": 2}, "71 attention heads", "--tp 1 (possible: 1)"),
        ("gpt2", "a100", {"pp_size": 16}, "gpt2 has 12 layers", "--pp 12"),
        ("gemma-2-9b-it", "h100", {"pp_size": 2}, "gemma converter has no pipeline", "--tp 2 --pp 1"),
        ("phi-3.5-mini", "h100", {"pp_size": 2}, "phi converter has no pipeline", "--tp 2 --pp 1"),
        ("opt-125m", "a100", {"pp_size": 2}, "opt converter has no pipeline", "--tp 2 --pp 1"),
        ("llama-3-8b", "v100", {}, "TensorRT-LLM 1.2.1 does not support volta", "compute capability 8.0"),
        ("llama-3-8b", "v100", {"version": "0.17.0"}, "TensorRT-LLM 0.17.0 does not support volta", "8.0"),
        ("gpt2", "t4", {"dtype": "float16"}, "does not support turing", "compute capability 8.0"),
        ("llama-3-8b", "a100", {"quantization": "fp8"}, "has no kernels", "--quantization int8-weight-only"),
        ("llama-3-8b", "h100", {"quantization": "nvfp4"}, "has no kernels", "--quantization w4a8-awq"),
        ("llama-3-8b", "b200", {"quantization": "int4-awq"}, "has no kernels", "--quantization fp8"),
        ("llama-3-8b", "b200", {"quantization": "int8-weight-only"}, "has no kernels", "--quantization fp8"),
        ("llama-3-8b", "b200", {"kv_cache_dtype": "int8"}, "no attention kernels", "--kv-cache-dtype fp8"),
        ("llama-3-8b", "a100", {"kv_cache_dtype": "fp8"}, "no attention kernels", "--kv-cache-dtype int8"),
        ("opt-125m", "h100", {"quantization": "fp8"}, "not available for OPT", "--quantization int8-weight-only"),
        ("opt-125m", "h100", {"kv_cache_dtype": "fp8"}, "quantizer does not know OPT", "--kv-cache-dtype auto"),
        ("gpt2", "h100", {"quantization": "int4-awq"}, "not available for GPT2", "--quantization int4-weight-only"),
        (
            "mixtral-8x7b-instruct",
            "h100",
            {"quantization": "int4-awq"},
            "not available for Mixtral",
            "int4-weight-only",
        ),
        ("qwen3-8b", "h100", {"version": "0.21.0"}, "cannot convert Qwen3ForCausalLM", "TensorRT-LLM 1.0.0 or later"),
        ("llama-3-8b", "h100", {"tp_size": 8, "gpus": 4}, "needs 8 GPUs, 4 are visible", "--tp 4 --pp 1"),
        ("llama-3-8b", "h100", {"tp_size": 2, "gpus": 1}, "needs 2 GPUs, 1 is visible", "--tp 1 --pp 1"),
        ("llama-3-8b", "h100", {"gpus": 0}, "0 are visible", "a machine with a GPU"),
    ],
    ids=lambda value: "-".join(f"{v}" for v in value.values()) if isinstance(value, dict) else None,
)
def test_refusals(alias: str, sku: str, options: dict[str, object], reason: str, remedy: str) -> None:
    problem = first_problem(alias, sku, **options)  # type: ignore[arg-type]
    assert problem is not None
    assert reason in problem.reason
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("alias", "sku", "options"),
    [
        ("llama-3-70b-instruct", "h100", {"tp_size": 4, "gpus": 4}),
        ("llama-3-70b-instruct", "a100", {"tp_size": 4, "pp_size": 2, "gpus": 8}),
        ("llama-3-8b", "h100", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
        ("llama-3-8b", "b200", {"quantization": "nvfp4", "kv_cache_dtype": "fp8"}),
        ("llama-3-8b", "a10g", {"quantization": "int4-awq", "kv_cache_dtype": "int8"}),
        ("llama-3-8b", "h100", {"tp_size": 16}),
        ("gpt2", "a100", {"tp_size": 4, "pp_size": 3, "dtype": "float16"}),
        ("phi-4", "h100", {"tp_size": 5}),
        ("qwen2.5-72b-instruct", "h200", {"tp_size": 2, "pp_size": 2, "version": "0.17.0"}),
    ],
    ids=lambda value: "-".join(f"{v}" for v in value.values()) if isinstance(value, dict) else None,
)
def test_possible_combinations(alias: str, sku: str, options: dict[str, object]) -> None:
    assert first_problem(alias, sku, **options) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "pp", "remedy"),
    [
        pytest.param("0.18.2", 3, f"--pp 2, or {FIRST_SAFE}", id="layers-dropped"),
        pytest.param("0.18.2", 4, None, id="even"),
        pytest.param("0.19.0", 3, None, id="first-stages-take-more"),
    ],
)
def test_an_uneven_pipeline_on_a_release_that_drops_the_rest(version: str, pp: int, remedy: str | None) -> None:
    model = named("llama-3-8b")
    layout = Layout(preset=catalog.preset("none"), dtype="bfloat16", kv_cache_dtype="auto", tp_size=1, pp_size=pp)
    found = next(
        feasibility.problems(model, layout, release=catalog.trtllm(version), architecture=None, product="x"), None
    )
    assert (found.remedy if found else None) == remedy


def test_quantized_weights_are_not_quantized_again() -> None:
    model = dataclasses.replace(named("llama-3-8b"), pre_quantized="awq")
    problem = feasibility.family_problem(RELEASE, model, quantization="none", kv_cache_dtype="auto")
    assert problem is not None
    assert "already quantized (awq)" in problem.reason


def test_unknown_architecture_lists_what_can_be_converted() -> None:
    model = dataclasses.replace(named("llama-3-8b"), architecture="MambaForCausalLM")
    problem = feasibility.family_problem(RELEASE, model, quantization="none", kv_cache_dtype="auto")
    assert problem is not None
    assert "LlamaForCausalLM" in problem.reason
    assert problem.remedy == "another model"
    deepseek = dataclasses.replace(model, architecture="DeepseekV3ForCausalLM")
    problem = feasibility.family_problem(RELEASE, deepseek, quantization="none", kv_cache_dtype="auto")
    assert problem is not None
    assert problem.remedy.startswith("--backend llmapi"), "the LLM API of this release has it"
    old = catalog.trtllm("0.21.0")
    problem = feasibility.family_problem(old, deepseek, quantization="none", kv_cache_dtype="auto")
    assert problem is not None
    assert "llmapi" not in problem.remedy, "the backend needs a later release"


@pytest.mark.parametrize(
    ("alias", "sku", "asked", "chosen"),
    [
        ("llama-3-8b", "a100", "auto", "bfloat16"),
        ("llama-3-8b", "t4", "auto", "float16"),
        ("llama-2-7b", "a100", "auto", "float16"),
        ("gpt2", "a100", "auto", "float16"),
        ("llama-3-8b", "t4", "bfloat16", "bfloat16"),
    ],
)
def test_choose_dtype(alias: str, sku: str, asked: str, chosen: str) -> None:
    assert feasibility.choose_dtype(asked, named(alias), gpu(sku).architecture) == chosen


@given(
    model=st.sampled_from(catalog.models()),
    sku=st.sampled_from(catalog.skus()),
    quantization=st.sampled_from(catalog.presets()),
    tp=st.integers(1, 16),
    pp=st.integers(1, 16),
)
def test_a_tp_remedy_always_works(
    model: ModelInfo, sku: GpuSku, quantization: catalog.Preset, tp: int, pp: int
) -> None:
    family = catalog.find_family(RELEASE, model.architecture)
    problem = feasibility.parallel_problem(model, tp, pp, family=family)
    if problem is None:
        assert model.heads % tp == 0
        assert pp <= model.layers
        return
    words = problem.remedy.split()
    sizes = {word: int(words[n + 1]) for n, word in enumerate(words) if word in {"--tp", "--pp"}}
    near = feasibility.parallel_problem(model, sizes.get("--tp", tp), sizes.get("--pp", 1), family=family)
    assert near is None


# What fits where, from sizing guides: 70B in 16 bit needs two 80 GB GPUs or four of 48 GB, in 4 bit one; 8B fits 24 GB.
@pytest.mark.parametrize(
    ("alias", "sku", "quantization", "ranks"),
    [
        ("llama-3-8b", "l4", "none", (1, 1)),
        ("llama-3-70b", "l40s", "none", (4, 1)),
        ("llama-3-70b", "h100", "none", (2, 1)),
        ("llama-3-70b", "h200", "none", (1, 1)),
        ("llama-3-70b", "h100", "int4-awq", (1, 1)),
        ("llama-3-70b", "h100", "fp8", (1, 1)),
        ("llama-3-70b", "l40s", "fp8", (2, 1)),
        ("mixtral-8x7b-instruct", "a100", "none", (2, 1)),
        ("qwen2.5-72b-instruct", "l4", "none", (8, 1)),
        ("falcon-7b", "l4", "none", (1, 1)),
        ("llama-3-70b", "v100", "none", None),
        ("llama-3-70b", "a10g", "fp8", None),
    ],
)
def test_smallest_fit(alias: str, sku: str, quantization: str, ranks: tuple[int, int] | None) -> None:
    fit = feasibility.smallest_fit(
        named(alias),
        Layout(dtype="bfloat16", preset=catalog.preset(quantization)),
        LIMITS,
        release=RELEASE,
        architecture=gpu(sku).architecture,
        product=gpu(sku).product,
        gpu_bytes=gpu(sku).memory_bytes,
    )
    assert (fit and (fit.layout.tp_size, fit.layout.pp_size)) == ranks
    assert fit is None or fit.memory.fits


def test_pipeline_stages_are_used_when_heads_cannot_be_cut() -> None:
    model = named("falcon-7b")
    fit = feasibility.smallest_fit(
        model,
        Layout(dtype="float16", preset=catalog.preset("none")),
        LIMITS,
        release=RELEASE,
        architecture=gpu("a10").architecture,
        product="NVIDIA-A10",
        gpu_bytes=12 * GIB,
    )
    assert fit is not None
    assert (fit.layout.tp_size, fit.layout.pp_size) == (1, 2)


KEY = {
    "gpu_product": "NVIDIA-H100-80GB-HBM3",
    "compute_capability": "9.0",
    "gpu_mig_profile": None,
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
    "cuda": "13.1.0",
    "platform": "linux/x86_64",
}


def test_an_engine_fits_the_machine_it_was_built_on() -> None:
    assert feasibility.engine_mismatches(KEY, gpu_host("h100", 2), world_size=2) == ()


@pytest.mark.parametrize(
    ("host", "world_size", "said"),
    [
        (gpu_host("h200", 1), 1, "built for product NVIDIA-H100-80GB-HBM3, GPU 0 has NVIDIA-H200"),
        (gpu_host("l40s", 1), 1, "built for compute capability 9.0, GPU 0 has 8.9"),
        (gpu_host("h100", 1), 2, "it has 2 ranks, 1 GPUs are visible"),
        (gpu_host("h100", 1, version="1.2.0"), 1, "built with TensorRT-LLM 1.2.1, here is 1.2.0"),
        (gpu_host("h100", 1, tensorrt="10.9.0.34"), 1, "built with TensorRT 10.14.1.48, here is 10.9.0.34"),
        (dataclasses.replace(gpu_host("h100", 1), versions={}), 1, "built with TensorRT-LLM 1.2.1, here is none"),
        (dataclasses.replace(gpu_host("h100", 1), platform="linux/aarch64"), 1, "this is linux/aarch64"),
    ],
    ids=["product", "capability", "ranks", "trtllm", "tensorrt", "not-installed", "platform"],
)
def test_a_machine_that_an_engine_does_not_fit(host: HostInfo, world_size: int, said: str) -> None:
    found = feasibility.engine_mismatches(KEY, host, world_size=world_size)
    assert any(said in line for line in found)


def published(architecture: str = "LlamaForCausalLM", **changes: object) -> ModelInfo:
    """Return the facts read from a config.json of the usual shape."""
    config: dict[str, object] = {
        "architectures": [architecture], "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16", "rope_theta": 500000.0,
    }  # fmt: skip
    config.update(changes)
    return ModelInfo.from_hf_config("org/model", {name: value for name, value in config.items() if value is not None})


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
NEW_STYLE = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        pytest.param("LlamaForCausalLM", {}, "", id="none"),
        pytest.param("LlamaForCausalLM", {"rope_scaling": LLAMA3}, "", id="llama3"),
        pytest.param("Qwen2ForCausalLM", {"rope_scaling": YARN}, "", id="yarn"),
        pytest.param("LlamaForCausalLM", {"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic'", id="dynamic"),
        pytest.param("LlamaForCausalLM", {"rope_scaling": {"rope_type": "default"}}, "'default'", id="said aloud"),
        pytest.param("LlamaForCausalLM", {"rope_scaling": {"type": "longrope"}}, "'longrope'", id="longrope elsewhere"),
        pytest.param("Phi3ForCausalLM", {"rope_scaling": {"type": "su"}}, "", id="longrope of 128k"),
        pytest.param(
            "Phi3ForCausalLM",
            {"rope_scaling": {"type": "longrope"}, "max_position_embeddings": 65536},
            "from 128000 tokens on",
            id="longrope of less",
        ),
        pytest.param("GemmaForCausalLM", {"rope_scaling": YARN}, "compute none", id="gemma"),
        pytest.param("LlamaForCausalLM", NEW_STYLE, "rope_theta in rope_parameters only", id="theta of transformers 5"),
        pytest.param(
            "LlamaForCausalLM", {"rope_parameters": LLAMA3}, "rope_type in rope_parameters only", id="type of 5"
        ),
        pytest.param("LlamaForCausalLM", {"rope_parameters": LLAMA3, "rope_scaling": LLAMA3}, "", id="both spellings"),
        pytest.param(
            "LlamaForCausalLM",
            {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
            "",
            id="the default of both",
        ),
    ],
)
def test_positions_that_an_engine_would_compute_otherwise(
    architecture: str, changes: dict[str, object], reason: str
) -> None:
    problem = feasibility.family_problem(
        RELEASE, published(architecture, **changes), quantization="none", kv_cache_dtype="auto"
    )
    assert (problem is None) == (not reason)
    if problem is not None:
        assert reason in problem.reason
        assert problem.remedy


def test_every_model_of_the_catalog_has_positions_that_its_engine_computes() -> None:
    for model in catalog.models():
        if (family := catalog.find_family(RELEASE, model.architecture)) is not None:
            assert rope_problem(model, family) is None, model.name
