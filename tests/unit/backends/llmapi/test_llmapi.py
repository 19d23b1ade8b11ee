"""The llmapi backend: what it refuses, what it keeps, and keys that any GPU shares."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.fakes.machines import gpu_host, resolved
from trtbuild.backends.llmapi.backend import BACKEND
from trtbuild.catalog import ModelInfo
from trtbuild.errors import BuildError, ConvertError, FetchError, HostError, SpecError
from trtbuild.plan import BuildPlan
from trtbuild.spec import EngineSpec, HostInfo, RepositorySpec

CASES = Path(__file__).parents[3] / "data"


def newer_host(sku: str = "h100", gpus: int = 8, version: str = "1.3.0") -> HostInfo:
    """A host whose TensorRT-LLM has no engines any more."""
    host = gpu_host(sku, gpus)
    return dataclasses.replace(host, versions={"tensorrt_llm": version}, tools={})


def make(alias: str = "llama-3-8b", host: HostInfo | None = None, **options: object) -> BuildPlan:
    return BACKEND.plan(EngineSpec(model=alias, **options), resolved(alias), host or newer_host())  # type: ignore[arg-type]


def test_it_works_where_engines_are_gone() -> None:
    assert BACKEND.availability(newer_host()).is_available
    assert BACKEND.availability(gpu_host(version="1.0.0")).is_available
    old = BACKEND.availability(gpu_host(version="0.21.0"))
    assert not old.is_available
    assert "needs 1.0.0 or later" in old.reason


def test_one_entry_serves_every_gpu() -> None:
    on_h100, on_l40s = make(), make(host=newer_host("l40s"))
    assert on_h100.key == on_l40s.key
    assert (on_h100.sku, on_l40s.sku) == ("NVIDIA-H100-80GB-HBM3", "NVIDIA-L40S")
    assert on_h100.key.relative_path.parts[1] == "any-gpu"
    assert make(tp_size=2).key != on_h100.key
    assert make(max_seq_len=4096).key != on_h100.key


def test_the_llms_arguments() -> None:
    plan = make("llama-3-70b-instruct", tp_size=4, kv_cache_dtype="fp8")
    assert plan.shape.options["llm"] == {
        "model": "model",
        "backend": "pytorch",
        "dtype": "bfloat16",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1,
        "max_batch_size": 128,
        "max_input_len": 8191,
        "max_seq_len": 8192,
        "max_num_tokens": 8192,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "kv_cache_config": {"dtype": "fp8"},
    }


@pytest.mark.parametrize(
    ("host", "options", "kind", "said", "hint"),
    [
        (newer_host(), {"quantization": "fp8"}, SpecError, "does not quantize", "--backend tensorrt_llm"),
        (newer_host(), {"build_option": {"gemm_plugin": "auto"}}, SpecError, "builds no engine", "drop them"),
        (newer_host(), {"kv_cache_dtype": "int8"}, SpecError, "auto and fp8", "fp8"),
        (newer_host(), {"tp_size": 3}, SpecError, "32 attention heads", "--tp 2"),
        (newer_host("a100"), {"kv_cache_dtype": "fp8"}, HostError, "no attention kernels", "--kv-cache-dtype int8"),
        (newer_host("v100"), {}, HostError, "does not support volta", "8.0 or later"),
        (newer_host(gpus=1), {"tp_size": 2}, HostError, "2 GPUs are needed, 1 are visible", "--tp"),
        (newer_host("l4"), {"model": "llama-3-70b"}, HostError, "does not fit NVIDIA-L4", "--tp"),
        (gpu_host(version="0.20.0"), {}, HostError, "needs 1.0.0 or later", "--backend tensorrt_llm"),
    ],
    ids=["quantization", "build-option", "int8-cache", "tp", "no-fp8", "volta", "gpus", "too-small", "old"],
)
def test_refusals(host: HostInfo, options: dict[str, object], kind: type[Exception], said: str, hint: str) -> None:
    rest = {name: value for name, value in options.items() if name != "model"}
    with pytest.raises(kind) as caught:
        make(str(options.get("model", "llama-3-8b")), host, **rest)
    assert said in caught.value.message  # type: ignore[attr-defined]
    assert hint in caught.value.hint  # type: ignore[attr-defined]


def write_snapshot(path: Path) -> Path:
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "pytorch_model.bin", "modeling.py"):
        (path / name).write_text(name)
    return path


@pytest.mark.parametrize(("is_trusted", "code"), [(False, set()), (True, {"modeling.py"})], ids=["safe", "trusted"])
def test_the_models_files_are_kept(is_trusted: bool, code: set[str], tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    snapshot = write_snapshot(tmp_path / "snapshot")
    BACKEND.build(make(tp_size=2, trust_remote_code=is_trusted), snapshot, engine, tmp_path)
    kept = {path.name for path in (engine / "model").iterdir()}
    assert kept == {"config.json", "model.safetensors", "tokenizer.json"} | code
    assert (engine / "model" / "model.safetensors").samefile(snapshot / "model.safetensors")
    assert json.loads((engine / "model.yaml").read_text())["tensor_parallel_size"] == 2
    info = BACKEND.inspect(engine)
    assert (info.world_size, info.max_batch_size, info.vocab_size) == (1, 128, 128256)
    (engine / "model" / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"model/tokenizer\.json is missing"):
        BACKEND.inspect(engine)


def test_pickles_alone_are_refused(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    snapshot = write_snapshot(tmp_path / "snapshot")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ConvertError, match="no safetensors"):
        BACKEND.build(make(), snapshot, engine, tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": 99}'], ids=["cut", "empty", "schema"])
def test_damaged_entries_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BuildError, match=r"config\.json"):
        BACKEND.inspect(tmp_path)


def test_template_parameters(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    BACKEND.build(make(), write_snapshot(tmp_path / "snapshot"), engine, tmp_path)
    info = BACKEND.inspect(engine)
    spec = RepositorySpec(max_queue_size=7, template_parameter={"cancellation_check_period_ms": "50"})
    variables = BACKEND.template(info, engine, spec).variables
    parameters = dict(variables["parameters"])  # type: ignore[arg-type]
    assert (parameters["max_queue_size"], parameters["cancellation_check_period_ms"]) == ("7", "50")
    with pytest.raises(SpecError, match="did you mean 'cancellation_check_period_ms'"):
        BACKEND.template(info, engine, RepositorySpec(template_parameter={"cancellation_check_period": "5"}))


def test_pickled_weights_are_refused_before_the_download() -> None:
    with pytest.raises(SpecError, match="only pickled weights; the LLM API reads safetensors"):
        make("opt-125m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_type": "ntk"}, "by 'ntk'"),
        ({"config": {"rope_parameters": {"rope_theta": 500000.0}}}, "rope_theta in rope_parameters only"),
        ({"rope_type": "yarn"}, None),
    ],
    ids=["unknown", "where only transformers 5 looks", "known"],
)
def test_positions_that_may_be_computed_otherwise_are_told(changes: dict[str, object], said: str | None) -> None:
    model = resolved("llama-3-8b")
    model = dataclasses.replace(model, info=dataclasses.replace(model.info, **changes))  # type: ignore[arg-type]
    warnings = BACKEND.plan(EngineSpec(model="x"), model, newer_host()).warnings
    assert sum("rope" in text or "rotary" in text for text in warnings) == (said is not None)
    assert any(said is None or said in text for text in (*warnings, ""))


def test_what_is_linked_from_elsewhere_is_not_kept_with_the_engine(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "snapshot")
    (tmp_path / "secret").write_text("a private key")
    (snapshot / "notes.json").symlink_to(tmp_path / "secret")
    engine = tmp_path / "engine"
    with pytest.raises(ConvertError, match=r"notes.json -> .*/secret: the link leads out"):
        BACKEND.build(make(), snapshot, engine, tmp_path)
    assert not (engine / "model").exists()


def test_pickles_that_would_be_downloaded_for_nothing_are_told() -> None:
    assert any("allow_pickle is of no use" in text for text in make(allow_pickle=True).warnings)
    assert not any("allow_pickle" in text for text in make().warnings)


def config(architecture: str = "LlamaForCausalLM", **changes: object) -> ModelInfo:
    values: dict[str, object] = {
        "architectures": [architecture], "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
        "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    } | changes  # fmt: skip
    return ModelInfo.from_hf_config("x/y", values)


def plan_of(info: ModelInfo, version: str = "1.2.1", sku: str = "h100", **options: object) -> BuildPlan:
    model = dataclasses.replace(resolved("llama-3-8b"), info=info)
    return BACKEND.plan(EngineSpec(model="x/y", **options), model, newer_host(sku, version=version))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "first", "before"),
    [
        ("LlamaForCausalLM", "1.0.0", None),
        ("Qwen3MoeForCausalLM", "1.0.0", None),
        ("Phi3ForCausalLM", "1.1.0", "1.0.3.2510"),
        ("GptOssForCausalLM", "1.1.0", "1.0.0"),
        ("Glm4MoeForCausalLM", "1.2.0", "1.1.0"),
        ("Cohere2ForCausalLM", "1.3.0rc7", "1.2.1"),
        ("AfmoeForCausalLM", "1.4.0rc4", "1.3.0rc13"),
    ],
)
def test_architectures_by_version(architecture: str, first: str, before: str | None) -> None:
    assert plan_of(config(architecture), first, tp_size=2).backend == "llmapi"
    if before is not None:
        with pytest.raises(SpecError, match=f"{architecture} is not known to the LLM API of TensorRT-LLM") as caught:
            plan_of(config(architecture), before, tp_size=2)
        assert "it came with" in caught.value.message


@pytest.mark.parametrize("alias", ["gpt2", "falcon-7b", "gemma-2-2b-it", "gemma-2-9b-it", "gemma-2-27b-it"])
@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.4.0rc4"])
def test_what_no_version_lists_is_refused_by_name(alias: str, version: str) -> None:
    with pytest.raises(SpecError, match="is not known to the LLM API of TensorRT-LLM") as caught:
        make(alias, newer_host(version=version))
    assert "no version's list of models has it" in caught.value.message
    assert "--backend llmapi" not in caught.value.hint
    assert ("--backend tensorrt_llm" in caught.value.hint) == (version != "1.4.0rc4"), "engines ended before it"


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("settings", "version", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "1.2.1", "quantized by gptq are not known"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "1.2.1", "quantized by bitsandbytes are not known"),
        ({"quant_method": "awq", "bits": 4}, "1.4.0rc4", "quantized by awq are not known"),
        ({"quant_method": "compressed-tensors"}, "1.2.1", "which loads modelopt, fp8, mxfp4"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "1.2.1", "weight_block_size [128, 128] only"),
        ({"quant_method": "fp8"}, "1.2.1", "config.json has none"),
        ({"quant_method": "mxfp4"}, "1.0.0", "quantized by mxfp4 are not known"),
    ],
    ids=["gptq", "bitsandbytes", "awq", "compressed", "fp8-blocks", "fp8-static", "mxfp4-early"],
)
def test_quantizations_that_are_not_loaded(settings: dict[str, object], version: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_of(config(quantization_config=settings), version)
    assert said in caught.value.message
    assert f"TensorRT-LLM {version}" in caught.value.message


@pytest.mark.parametrize(
    ("settings", "version"),
    [(FP8, "1.0.0"), ({"quant_method": "mxfp4"}, "1.1.0"), ({"quant_method": "modelopt"}, "1.2.1"),
     ({"quant_method": "compressed-tensors"}, "1.3.0rc13")],
    ids=["fp8", "mxfp4", "modelopt", "compressed-tensors"],
)  # fmt: skip
def test_quantizations_that_are_loaded(settings: dict[str, object], version: str) -> None:
    assert plan_of(config(quantization_config=settings), version).backend == "llmapi"


def test_an_engine_is_not_sent_to_a_loader_that_has_it_not() -> None:
    """GPTQ weights are refused for engines without a word of llmapi; fp8 blocks are sent there."""
    from trtbuild.backends import get

    for settings, is_offered in (({"quant_method": "gptq", "bits": 4}, False), (FP8, True)):
        model = dataclasses.replace(resolved("llama-3-8b"), info=config(quantization_config=settings))
        with pytest.raises(SpecError) as caught:
            get("tensorrt_llm").plan(EngineSpec(model="x"), model, gpu_host())
        assert ("--backend llmapi" in caught.value.hint) == is_offered


def test_quantized_weights_need_gpus_with_kernels() -> None:
    with pytest.raises(HostError, match="ampere GPUs have no kernels"):
        plan_of(config(quantization_config=FP8), sku="a100")
    with pytest.raises(HostError, match="ada GPUs have no kernels"):
        plan_of(config(quantization_config={"quant_method": "mxfp4"}), sku="l40s")


def test_awq_and_an_fp8_cache_do_not_go_together(tmp_path: Path) -> None:
    awq = config(quantization_config={"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"})
    with pytest.raises(SpecError, match="no attention kernels beside W4A16_AWQ") as caught:
        plan_of(awq, kv_cache_dtype="fp8")
    assert "--kv-cache-dtype auto" in caught.value.hint
    assert plan_of(awq).backend == "llmapi"
    # Where only the file beside config.json says it, it shows when the file is there.
    snapshot = write_snapshot(tmp_path / "snapshot")
    (snapshot / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "W4A16_AWQ"}}')
    with pytest.raises(ConvertError, match="no attention kernels beside W4A16_AWQ"):
        BACKEND.build(plan_of(config(), kv_cache_dtype="fp8"), snapshot, tmp_path / "engine", tmp_path)


def test_modelopt_checkpoints_need_their_file(tmp_path: Path) -> None:
    plan = plan_of(config(quantization_config={"quant_method": "modelopt"}))
    with pytest.raises(ConvertError, match=r"hf_quant_config\.json is missing"):
        BACKEND.build(plan, write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path)


@pytest.mark.parametrize(
    ("kind", "version", "is_needed"),
    [("kimi_k2", "1.2.1", True), ("deepseek_v3", "1.2.1", False), ("glm4_moe", "1.0.0", True)],
)
def test_code_of_the_models_own_needs_the_word(kind: str, version: str, is_needed: bool) -> None:
    auto_map = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    info = config("DeepseekV3ForCausalLM", model_type=kind, auto_map=auto_map)
    if is_needed:
        with pytest.raises(SpecError, match="brings Python code") as caught:
            plan_of(info, version)
        assert "--trust-remote-code" in caught.value.hint
    assert plan_of(info, version, trust_remote_code=True).backend == "llmapi"
    if not is_needed:
        assert plan_of(info, version).backend == "llmapi"


def test_positions_scaled_twice_are_refused() -> None:
    twice = {"type": "dynamic", "factor": 4.0}, {"rope_type": "llama3", "factor": 8.0}
    with pytest.raises(FetchError, match="'llama3' by rope_parameters and 'dynamic' by rope_scaling"):
        config(rope_scaling=twice[0], rope_parameters=twice[1])


def test_estimates_are_marked_and_warned_of() -> None:
    plan = plan_of(config("Starcoder2ForCausalLM"))
    assert any("not known exactly" in text for text in plan.warnings)
    assert not any(line.startswith(("layers", "disk: snapshot")) and " = " in line for line in plan.arithmetic)


def test_a_model_of_671_billion_weights_is_not_planned_for_one_gpu() -> None:
    config = json.loads((CASES / "published_sizes.json").read_text())["models"][0]["config"]
    info = ModelInfo.from_hf_config("deepseek-ai/DeepSeek-V3", config)
    with pytest.raises(HostError, match="does not fit"):
        plan_of(info, sku="h200")
    plan = plan_of(info, sku="h200", tp_size=8)
    assert 640 < plan.budget.snapshot_bytes / 2**30 < 643, "what the hub lists is 641 GiB"
