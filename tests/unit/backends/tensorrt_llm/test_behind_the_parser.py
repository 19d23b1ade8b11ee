"""What upstream's parsers accept and its code behind them does not do: refused, or planned as it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.fakes.machines import gpu_host, resolved
from tests.unit.backends.tensorrt_llm.test_tensorrt_llm_template import render, write_engine
from trtbuild import catalog
from trtbuild.backends.tensorrt_llm.backend import BACKEND
from trtbuild.backends.tensorrt_llm.windows import FILE, attention_windows, read_windows, write_windows
from trtbuild.catalog import ModelInfo
from trtbuild.errors import BuildError, FetchError, HostError, SpecError
from trtbuild.plan import BuildPlan
from trtbuild.plan.conversion import calibration_bytes
from trtbuild.spec import EngineSpec, GpuInfo, HostInfo, RepositorySpec

DATA = "abisee/cnn_dailymail@" + "a" * 40


def make(alias: str = "llama-3-8b", host: HostInfo | None = None, **options: object) -> BuildPlan:
    spec = EngineSpec(model=alias, **options)  # type: ignore[arg-type]
    return BACKEND.plan(spec, resolved(alias), host or gpu_host())


def plan_of(config: dict[str, object], host: HostInfo | None = None, **options: object) -> BuildPlan:
    base = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    model = dataclasses.replace(resolved("llama-3-8b"), info=ModelInfo.from_hf_config("x/y", base | config))
    return BACKEND.plan(EngineSpec(model="x/y", **options), model, host or gpu_host())  # type: ignore[arg-type]


# --- AWQ groups -------------------------------------------------------------------------------------------------------


def by_upstreams_rule(model: ModelInfo, tp_size: int) -> bool:
    """ModelOpt's check as upstream writes it: each linear's input, that of cut ones per rank, in whole groups of "
    "128."""
    attention, inner = model.heads * model.head_dim, model.intermediate_size
    return model.hidden_size % 128 == 0 and all(width // tp_size % 128 == 0 for width in (attention, inner))


@pytest.mark.parametrize("alias", [model.name for model in catalog.models()])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
@pytest.mark.parametrize("preset", ["int4-awq", "w4a8-awq"])
def test_awq_plans_are_those_that_the_quantizer_takes(alias: str, tp_size: int, preset: str) -> None:
    model = resolved(alias).info
    try:
        plan = make(alias, tp_size=tp_size, quantization=preset, calibration=DATA, trust_remote_code=True)
    except (SpecError, HostError) as error:
        is_about_groups = "share a scale" in error.message
        assert not (is_about_groups and by_upstreams_rule(model, tp_size)), error.message
        if is_about_groups:
            assert "--quantization int4-weight-only or fp8" in error.hint
    else:
        assert by_upstreams_rule(model, tp_size), f"upstream refuses this after the calibration: {plan.sku}"


@pytest.mark.parametrize(
    ("alias", "tp_size", "nearest"),
    [
        ("qwen2.5-72b-instruct", 2, "--tp 1, or"),
        ("llama-2-7b", 4, "--tp 2, or"),
        ("qwen2.5-14b-instruct", 8, "--tp 4,"),
    ],
)
def test_the_nearest_size_is_named(alias: str, tp_size: int, nearest: str) -> None:
    with pytest.raises(SpecError, match="share a scale") as caught:
        make(alias, tp_size=tp_size, quantization="int4-awq", calibration=DATA)
    assert nearest in caught.value.hint


def test_a_width_that_no_size_helps() -> None:
    with pytest.raises(SpecError, match="4544 wide, which is not a multiple of the 128") as caught:
        make("falcon-7b", quantization="int4-awq", calibration=DATA)
    assert "--tp" not in caught.value.hint


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "sku", "gpus", "options"),
    [
        ("llama-3-70b-instruct", "h100", 2, {"tp_size": 2, "quantization": "fp8"}),
        ("llama-3-70b-instruct", "h100", 1, {"quantization": "int4-awq"}),
        ("llama-2-13b", "l4", 1, {"quantization": "fp8"}),
        (
            "llama-3-70b-instruct",
            "h100",
            2,
            {"tp_size": 2, "quantization": "int8-weight-only", "kv_cache_dtype": "fp8"},
        ),
    ],
    ids=["fp8", "awq", "small-gpu", "cache"],
)
def test_a_calibration_without_room_is_refused(alias: str, sku: str, gpus: int, options: dict[str, object]) -> None:
    with pytest.raises((HostError, SpecError)) as caught:
        make(alias, gpu_host(sku, gpus), calibration=DATA, **options)
    assert "of GPU memory, the whole model in 16 bits" in caught.value.message
    assert "which need no calibration" in caught.value.hint


def test_a_calibration_is_a_line_of_the_plan() -> None:
    """Upstream's README: more than 210 GB for a 70B model, at least 4 GPUs of 80 GB."""
    assert 205e9 < calibration_bytes(resolved("llama-2-70b").info, catalog.preset("fp8")) < 215e9
    plan = make("llama-3-70b-instruct", gpu_host(gpus=4), tp_size=4, quantization="fp8", calibration=DATA)
    assert any(line.startswith("GPU memory: calibration      ~") for line in plan.arithmetic)
    assert not any("calibration" in line for line in make().arithmetic)


# --- attention windows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "length", "pattern"),
    [
        ("mistral-7b-v0.1", 4096, ()),
        ("mistral-7b-v0.1", 8192, (4096,)),
        ("gemma-2-9b-it", 8192, (4096, 8192)),
        ("gemma-2-9b-it", 2048, ()),
        ("llama-3-8b", 8192, ()),
    ],
)
def test_windows_are_the_shortest_pattern(alias: str, length: int, pattern: tuple[int, ...]) -> None:
    assert attention_windows(resolved(alias).info, length) == pattern


def test_sequences_end_at_the_window_unless_more_is_asked() -> None:
    plan = make("gemma-2-9b-it")
    assert plan.shape.max_seq_len == 4096
    assert any("end at the attention window" in text for text in plan.warnings)
    assert "attention_windows" not in plan.shape.options
    assert make("llama-3-8b").shape.max_seq_len == 8192


def test_longer_sequences_are_served_with_windows() -> None:
    plan = make("gemma-2-9b-it", max_seq_len=8192)
    assert plan.shape.options["attention_windows"] == [4096, 8192]
    assert any("max_attention_window_size 4096,8192 is served" in text for text in plan.warnings)
    assert plan.key.fields["attention_windows"] == [4096, 8192]
    assert any("21 layers keep their window only" in line for line in plan.arithmetic)


def test_windows_are_written_and_reuse_is_off(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, "1.2.1")
    write_windows(engine, [4096, 8192])
    parameters = {name: value.string_value for name, value in render(engine).parameters.items()}
    assert parameters["max_attention_window_size"] == "4096,8192"
    assert (parameters["enable_kv_cache_reuse"], parameters["enable_chunked_context"]) == ("false", "false")
    given = RepositorySpec(template_parameter={"max_attention_window_size": "1024, 8192"})
    assert render(engine, given).parameters["max_attention_window_size"].string_value == "1024,8192"
    (engine / FILE).write_text('["4096"]')
    with pytest.raises(BuildError, match="expected a list of whole numbers"):
        read_windows(engine)


@pytest.mark.parametrize("value", ["", "0", "-1", "4096,", "a,b", "4096;8192", "²"])
def test_windows_that_are_none(value: str, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, "1.2.1")
    with pytest.raises(SpecError, match="one or several with commas"):
        render(engine, RepositorySpec(template_parameter={"max_attention_window_size": value}))


# --- attention in fp8 -------------------------------------------------------------------------------------------------


def rtx_5090(version: str) -> HostInfo:
    host = gpu_host(version=version)
    gpu = GpuInfo(index=0, product="NVIDIA GeForce RTX 5090", compute_capability="12.0", memory_mib=32607)
    return dataclasses.replace(host, gpus=(gpu,))


@pytest.mark.parametrize("version", ["0.17.0", "0.18.2", "0.19.0"])
def test_attention_in_fp8_on_compute_capability_12_came_with_0_20(version: str) -> None:
    with pytest.raises(HostError, match=r"compute capability 12.0\) before TensorRT-LLM 0.20.0") as caught:
        make("llama-3.2-3b", rtx_5090(version), quantization="fp8", kv_cache_dtype="fp8", calibration=DATA)
    assert "--kv-cache-dtype auto" in caught.value.hint
    plan = make("llama-3.2-3b", rtx_5090(version), quantization="fp8", calibration=DATA)
    assert "--use_fp8_context_fmha disable" in plan.steps[1], "its default changed in 0.19"
    later = make("llama-3.2-3b", rtx_5090("0.20.0"), quantization="fp8", kv_cache_dtype="fp8", calibration=DATA)
    assert "--use_fp8_context_fmha" not in later.steps[1]


def test_w4a8_has_no_paged_attention_with_an_fp8_cache() -> None:
    plan = make(quantization="w4a8-awq", kv_cache_dtype="fp8", calibration=DATA)
    assert "--use_paged_context_fmha disable" in plan.steps[1]


# --- keys of config.json ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "version", "key"),
    [
        ({"mlp_bias": True}, "1.2.1", "mlp_bias True"),
        ({"partial_rotary_factor": 0.5}, "1.2.1", "partial_rotary_factor 0.5"),
        (
            {"architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "attention_bias": True},
            "1.2.1",
            "attention_bias True",
        ),
        ({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.75}, "0.18.2", "partial_rotary_factor 0.75"),
        ({"architectures": ["Phi3ForCausalLM"], "attention_bias": True}, "1.2.1", "attention_bias True"),
        ({"architectures": ["PhiForCausalLM"], "qk_layernorm": True}, "1.2.1", "qk_layernorm True"),
        ({"architectures": ["OPTForCausalLM"], "ffn_dim": 16384, "enable_bias": False}, "1.2.1", "enable_bias False"),
        (
            {"architectures": ["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": True},
            "1.2.1",
            "inverse_layer_idx True",
        ),
        ({"architectures": ["Phi3ForCausalLM"], "head_dim": 96}, "1.2.1", "heads of 96 in a width of 4096"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_a_converter_does_not_read(config: dict[str, object], version: str, key: str) -> None:
    with pytest.raises((SpecError, HostError)) as caught:
        plan_of(config, gpu_host(version=version))
    assert key in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        {"mlp_bias": False, "attention_bias": True, "partial_rotary_factor": 1.0},
        {"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.75},
        {"architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "attention_bias": False},
    ],
    ids=["llama", "phi-4-mini", "qwen3"],
)
def test_keys_that_make_no_difference_or_are_read(config: dict[str, object]) -> None:
    assert plan_of(config).backend == "tensorrt_llm"


@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_positions_scaled_twice_are_refused(kind: str) -> None:
    twice = {
        "rope_scaling": {"type": kind, "factor": 4.0},
        "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0},
    }
    with pytest.raises(FetchError, match=f"rope_type is 'llama3' by rope_parameters and '{kind}' by rope_scaling"):
        plan_of(twice)


# --- build options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("kv_cache_type", "disabled", "in-flight batching, which needs a paged key/value cache"),
        ("kv_cache_type", "continuous", "in-flight batching, which needs a paged key/value cache"),
        ("paged_kv_cache", "disable", "in-flight batching, which needs a paged key/value cache"),
        ("remove_input_padding", "disable", "packed inputs"),
        ("gpt_attention_plugin", "disable", "the attention plugin"),
        ("strip_plan", "true", "refitted"),
        *(("speculative_decoding_mode", mode, "plain decoder-only models")
          for mode in ("medusa", "eagle", "lookahead_decoding", "draft_tokens_external", "explicit_draft_tokens")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["0.17.0", "1.2.1"])
def test_options_that_contradict_in_flight_batching(name: str, value: str, why: str, version: str) -> None:
    with pytest.raises(SpecError, match=f"build_option {name}={value}: not accepted: ") as caught:
        make(host=gpu_host(version=version), build_option={name: value})
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"), [("kv_cache_type", "paged"), ("paged_kv_cache", "enable"), ("strip_plan", "false")]
)
def test_values_that_say_what_is_so(name: str, value: str) -> None:
    assert make(build_option={name: value}).backend == "tensorrt_llm"


def test_paged_attention_follows_fused_attention() -> None:
    assert "--use_paged_context_fmha disable" in make(build_option={"context_fmha": "disable"}).steps[1]
    with pytest.raises(SpecError, match="context_fmha=disable"):
        make(build_option={"context_fmha": "disable", "use_paged_context_fmha": "enable"})


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [release.version for release in catalog.trtllm_releases()])
def test_inputs_by_release(version: str, tmp_path: Path) -> None:
    config = render(write_engine(tmp_path, version))
    inputs = {tensor.name: tensor for tensor in config.input}
    retention = {name for name in inputs if name.startswith("retention_")}
    assert {"retention_token_range_durations_ms", "retention_decode_duration_ms"} <= retention
    is_fixed = catalog.parse_version(version) < catalog.parse_version("1.0.0")
    kind = "TYPE_FP16" if is_fixed else "TYPE_BF16"
    assert json.dumps(kind) == json.dumps(_type_name(inputs["prompt_embedding_table"].data_type))


def _type_name(number: int) -> str:
    from tritonclient.grpc import model_config_pb2

    return str(model_config_pb2.DataType.Name(number))
