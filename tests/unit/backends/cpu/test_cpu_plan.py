"""The cpu backend's plan: limits, pool, key and refusals, without a machine or a model."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.data.cpu_parity.checkpoints import CONFIGS
from tests.unit.backends.cpu.test_cpu_families import LLAMA_31, REFUSED
from trtbuild import backends
from trtbuild.backends.cpu.families import read_decoder
from trtbuild.backends.cpu.key import cpu_class
from trtbuild.backends.cpu.plan import make_plan
from trtbuild.backends.cpu.shape import context_limit
from trtbuild.catalog import ModelInfo, find_model
from trtbuild.errors import FetchError, HostError, SpecError
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.spec import CpuInfo, EngineSpec, HostInfo

GIB = 1 << 30
CPU = CpuInfo(vendor="AuthenticAMD", model="EPYC", isa=("avx2", "avx512_bf16", "avx512f"), cores=8)
HOST = HostInfo(
    platform="linux/x86_64",
    cpu=CPU,
    memory_bytes=64 * GIB,
    versions={"openvino": "2026.4.1", "openvino_genai": "2026.4.1.0"},
)


def info_of(alias: str) -> ModelInfo:
    info = find_model(alias)
    assert info is not None
    return info


def plan(alias: str = "llama-3.2-1b", host: HostInfo = HOST, **spec: Any) -> BuildPlan:
    info = info_of(alias)
    model = ResolvedModel(model_id=info.model_id, revision="a" * 40, source="hub", info=info, alias=alias)
    return make_plan(EngineSpec(model=alias, **spec), model, host)


def test_the_defaults_are_faithful() -> None:
    made = plan()
    shape = made.shape
    assert (shape.max_batch_size, shape.max_seq_len, shape.max_input_len, shape.max_num_tokens) == (8, 4096, 4095, 256)
    assert (shape.dtype, shape.kv_cache_dtype, shape.world_size) == ("float32", "float32", 1)
    assert shape.options["weights"] == "float32"
    assert shape.options["compute_type"] == "float32"
    assert shape.options["kv_cache_tokens"] == 8 * 4096
    assert shape.options["dynamic_quantization_group_size"] == 0
    assert made.sku == "cpu-amd-avx512_bf16"
    assert any("2 x 16 layers x 8 heads x 64 x 4 bytes" in line for line in made.arithmetic)


def test_a_plan_is_pure() -> None:
    assert plan() == plan()
    assert plan().key.digest == plan().key.digest


def _other(**changes: Any) -> BuildPlan:
    return plan(host=replace(HOST, **changes))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: plan(quantization="int8-weight-only"), id="quantization"),
        pytest.param(lambda: plan(dtype="bfloat16"), id="dtype"),
        pytest.param(lambda: plan(kv_cache_dtype="int8"), id="cache type"),
        pytest.param(lambda: plan(max_batch_size=4), id="slots"),
        pytest.param(lambda: plan(max_seq_len=2048), id="sequence"),
        pytest.param(lambda: plan(max_input_len=100), id="prompt"),
        pytest.param(lambda: plan(max_num_tokens=512), id="tokens per step"),
        pytest.param(lambda: plan(kv_cache_tokens=8192), id="pool"),
        pytest.param(lambda: plan(build_option={"compute_type": "bfloat16"}), id="compute type"),
        pytest.param(lambda: plan(build_option={"dynamic_quantization_group_size": "32"}), id="dynamic quantization"),
        pytest.param(lambda: _other(versions={**HOST.versions, "openvino": "2026.5.0"}), id="openvino"),
        pytest.param(lambda: _other(versions={**HOST.versions, "openvino_genai": "2026.5.0"}), id="openvino genai"),
        pytest.param(lambda: _other(platform="linux/aarch64"), id="platform"),
        pytest.param(lambda: _other(cpu=replace(CPU, vendor="GenuineIntel")), id="vendor"),
        pytest.param(lambda: _other(cpu=replace(CPU, isa=("avx2",))), id="instruction set"),
    ],
)
def test_whatever_changes_an_engine_changes_its_key(other: Any) -> None:
    assert other().key.digest != plan().key.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": replace(CPU, model="another name", cores=2)},
        {"shm_bytes": 5},
        {"tools": {"mpirun": "/usr/bin/mpirun"}},
        {"versions": {**HOST.versions, "triton_wheel": "0.8"}},
        {"memory_bytes": 65 * GIB},
    ],
    ids=["name and cores", "shm", "tools", "server", "memory that changes no limit"],
)
def test_what_does_not_change_an_engine_does_not_change_its_key(changes: dict[str, Any]) -> None:
    assert _other(**changes).key.digest == plan().key.digest


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        pytest.param({"tp_size": 2}, SpecError, "one process, expected 1 and 1", id="tensor parallel"),
        pytest.param({"pp_size": 2}, SpecError, "one process", id="pipeline parallel"),
        pytest.param({"quantization": "fp8"}, SpecError, "not 'fp8'", id="fp8"),
        pytest.param({"kv_cache_dtype": "fp8"}, SpecError, "kv_cache_dtype", id="fp8 cache"),
        pytest.param({"calibration": "cnn_dailymail@abc"}, SpecError, "needs no data", id="calibration"),
        pytest.param({"build_option": {"compute_typ": "float32"}}, SpecError, "did you mean 'compute_type'", id="typo"),
        pytest.param({"build_option": {"compute_type": "fp4"}}, SpecError, "expected float32 or bfloat16", id="type"),
        pytest.param({"build_option": {"dynamic_quantization_group_size": "7"}}, SpecError, "got '7'", id="group size"),
        pytest.param({"max_seq_len": 200_000}, SpecError, "the context of .* is 131072", id="beyond the context"),
        pytest.param(
            {"max_seq_len": 128, "max_input_len": 128}, SpecError, "no room for output", id="prompt fills all"
        ),
        pytest.param({"max_num_tokens": 4}, SpecError, "less than max_batch_size=8", id="tokens per step"),
        pytest.param(
            {"max_seq_len": 4096, "kv_cache_tokens": 1024}, SpecError, "cannot hold one sequence", id="pool too small"
        ),
    ],
)
def test_impossible_combinations_are_refused(spec: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        plan(**spec)
    assert caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ("gemma-2-2b-it", "caps attention scores"),
        ("mixtral-8x7b-instruct", "mixtures of experts"),
        ("falcon-7b", "parallel attention"),
        ("opt-125m", "only pickled weights"),
    ],
)
def test_models_that_are_not_covered_are_refused_before_a_download(alias: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(alias)


@pytest.mark.parametrize(
    "alias",
    [
        "gpt2",
        "llama-2-7b",
        "llama-3.1-8b-instruct",
        "llama-3.2-3b",
        "mistral-7b",
        "qwen2.5-0.5b-instruct",
        "qwen3-0.6b",
        "phi-4",
    ],
)
def test_covered_models_of_the_catalog_are_planned(alias: str) -> None:
    made = plan(alias, quantization="int8-weight-only")
    assert made.shape.options["route"] == "builder"
    assert made.budget.engine_bytes == pytest.approx(info_of(alias).parameters, rel=0.03)


def test_longrope_models_are_limited_to_their_original_context() -> None:
    made = plan("phi-3.5-mini")
    assert made.shape.max_seq_len == 4096
    assert any("up to its context before longrope of 4096" in warning for warning in made.warnings)
    with pytest.raises(SpecError, match="context before longrope"):
        plan("phi-3.5-mini", max_seq_len=4097)


def read(config: dict[str, Any]) -> ResolvedModel:
    """A model that is not in the catalog: all that is known of it is its config.json."""
    return ResolvedModel(
        model_id="org/model", revision="a" * 40, source="hub", info=ModelInfo.from_hf_config("org/model", config)
    )


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_the_build_would_refuse_is_refused_before_the_download(change: dict[str, Any], message: str) -> None:
    """Whatever ``read_decoder`` says of a config.json, the plan says first."""
    config = {**LLAMA_31, **change}
    with pytest.raises((SpecError, FetchError), match=message):
        read_decoder(config)
    with pytest.raises((SpecError, FetchError)) as early:
        make_plan(EngineSpec(model="org/model"), read(config), HOST)
    assert early.value.hint
    if not {"architectures", "quantization_config"} & set(change):  # said in other words, by those who read them first
        assert re.search(message, early.value.message)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plans_limit_is_the_builds(name: str) -> None:
    config = CONFIGS[name]
    assert context_limit(read(config).info)[0] == read_decoder(config).context_tokens


def test_the_largest_sizes_are_arithmetic_not_memory() -> None:
    huge = {**LLAMA_31, "vocab_size": 2**31 - 1, "hidden_size": 2**30, "intermediate_size": 2**31 - 1}
    with pytest.raises(HostError, match="do not fit into"):
        make_plan(EngineSpec(model="org/model"), read(huge), HOST)


def test_optimum_intel_opens_other_architectures() -> None:
    host = replace(HOST, versions={**HOST.versions, "optimum_intel": "1.27.0"})
    made = plan("falcon-7b", host=host, quantization="int8-weight-only")
    assert made.shape.options["route"] == "optimum-intel"
    assert "--weight-format int8" in made.steps[0]
    assert made.key.fields["graph"] == "optimum-intel 1.27.0"
    assert any("optimum-intel makes this engine's graph" in warning for warning in made.warnings)
    assert plan("opt-125m", host=host, allow_pickle=True).shape.options["route"] == "optimum-intel"
    with pytest.raises(SpecError, match="only pickled weights"):
        plan("opt-125m", host=host)


def test_a_small_host_gets_a_smaller_pool_and_says_so() -> None:
    made = plan("llama-3.2-3b", host=replace(HOST, memory_bytes=20 * GIB))
    pool = made.shape.options["kv_cache_tokens"]
    assert isinstance(pool, int)
    assert 4096 <= pool < 8 * 4096
    assert pool % 32 == 0
    assert made.budget.host_memory_bytes <= 20 * GIB
    tiny = plan("llama-3.2-3b", host=replace(HOST, memory_bytes=16 * GIB))
    assert tiny.shape.max_seq_len < 4096
    assert any("no more key/value cache fits" in warning for warning in tiny.warnings)


def test_a_host_that_is_too_small_is_told_the_arithmetic() -> None:
    with pytest.raises(HostError, match=r"llama-3.1-8b|Llama-3.1-8B.* do not fit into 4.0 GiB") as caught:
        plan("llama-3.1-8b", host=replace(HOST, memory_bytes=4 * GIB))
    assert "int8-weight-only" in caught.value.hint


def test_bfloat16_arithmetic_needs_a_cpu_that_has_it() -> None:
    with pytest.raises(HostError, match="no bfloat16 arithmetic"):
        plan(host=replace(HOST, cpu=replace(CPU, isa=("avx2", "avx512f"))), build_option={"compute_type": "bfloat16"})


@pytest.mark.parametrize(
    ("vendor", "isa", "expected"),
    [
        ("GenuineIntel", ("avx2", "avx512f", "amx_tile"), "cpu-intel-amx_tile"),
        ("AuthenticAMD", ("avx2",), "cpu-amd-avx2"),
        ("ARM", ("asimd", "sve"), "cpu-arm-sve"),
        ("", (), "cpu-unknown-baseline"),
    ],
)
def test_names_of_processors(vendor: str, isa: tuple[str, ...], expected: str) -> None:
    assert cpu_class(CpuInfo(vendor=vendor, model="", isa=isa, cores=1)) == expected


def test_the_registry_finds_backends_by_name() -> None:
    assert backends.get("cpu").name == "cpu"
    assert "cpu" in backends.names()
    with pytest.raises(SpecError, match="did you mean 'cpu'"):
        backends.get("cpuu")


@pytest.mark.parametrize(
    ("spec", "weights", "factor"),
    [
        ({}, "float32", 1.05),
        ({"dtype": "bfloat16"}, "bfloat16", 3.6),
        ({"build_option": {"compute_type": "bfloat16"}}, "bfloat16", 2.5),
        ({"quantization": "int8-weight-only", "dtype": "bfloat16"}, "int8", 1.4),
    ],
    ids=["default", "small file", "fast", "int8"],
)
def test_memory_depends_on_how_weights_are_stored_and_computed(
    spec: dict[str, Any], weights: str, factor: float
) -> None:
    made = plan(max_seq_len=512, **spec)
    assert made.shape.options["weights"] == weights
    assert any(f"engine file x {factor} " in line for line in made.arithmetic)
    assert any("take more memory" in warning for warning in made.warnings) == (factor == 3.6)


def test_pickles_that_would_be_downloaded_for_nothing_are_told() -> None:
    assert any("allow_pickle is of no use" in text for text in plan(allow_pickle=True).warnings)
    assert not any("allow_pickle" in text for text in plan().warnings)
