"""Plans of TensorRT-LLM engines: choices, refusals, keys and command lines."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.machines import gpu_host, resolved
from trtbuild import catalog
from trtbuild.backends.tensorrt_llm.backend import BACKEND
from trtbuild.errors import HostError, SpecError, TrtBuildError
from trtbuild.plan import BuildPlan
from trtbuild.spec import QUANTIZATIONS, EngineSpec, HostInfo

DATA = "abisee/cnn_dailymail@" + "a" * 40


def make(alias: str = "llama-3-8b", host: HostInfo | None = None, **options: object) -> BuildPlan:
    spec = EngineSpec(model=alias, **options)  # type: ignore[arg-type]
    return BACKEND.plan(spec, resolved(alias), host or gpu_host())


def test_presets_and_options_name_the_same_quantizations() -> None:
    assert {preset.name for preset in catalog.presets()} == set(QUANTIZATIONS)


def test_defaults() -> None:
    plan = make("llama-3.1-8b-instruct")
    assert (plan.shape.dtype, plan.shape.quantization) == ("bfloat16", "none")
    assert (plan.shape.max_batch_size, plan.shape.max_seq_len, plan.shape.max_num_tokens) == (128, 8192, 8192)
    assert plan.shape.max_input_len == 8191
    assert plan.sku == "NVIDIA-H100-80GB-HBM3"
    assert plan.budget.snapshot_bytes > 16_060_522_496
    assert any("layers" in line for line in plan.arithmetic)


def test_steps_are_the_commands_as_typed() -> None:
    plan = make("llama-3-70b-instruct", tp_size=4)
    assert plan.steps == (
        "python3 /app/examples/models/core/llama/convert_checkpoint.py --model_dir SNAPSHOT --output_dir CHECKPOINT "
        "--dtype bfloat16 --tp_size 4 --pp_size 1 --workers 1 --load_model_on_cpu",
        "trtllm-build --checkpoint_dir CHECKPOINT --output_dir ENGINE --max_batch_size 128 --max_input_len 8191 "
        "--max_seq_len 8192 --max_num_tokens 8192 --workers 4 --input_timing_cache TIMING_CACHE "
        "--output_timing_cache TIMING_CACHE --context_fmha enable --gemm_plugin bfloat16 "
        "--gpt_attention_plugin bfloat16 --kv_cache_type paged --max_beam_width 1 --remove_input_padding enable "
        "--use_paged_context_fmha enable",
    )


@pytest.mark.parametrize(
    ("alias", "options", "version", "command"),
    [
        (
            "gemma-2-9b-it",
            {"tp_size": 2},
            "1.2.1",
            "python3 /app/examples/models/core/gemma/convert_checkpoint.py --ckpt-type hf --model-dir SNAPSHOT "
            "--output-model-dir CHECKPOINT --dtype bfloat16 --world-size 2 --load_model_on_cpu",
        ),
        (
            "opt-125m",
            {},
            "0.18.2",
            "python3 /app/examples/opt/convert_checkpoint.py --model_dir SNAPSHOT --output_dir CHECKPOINT "
            "--dtype float16 --tp_size 1 --pp_size 1 --workers 1",
        ),
        (
            "gpt2",
            {"quantization": "int8-weight-only"},
            "0.21.0",
            "python3 /app/examples/models/core/gpt/convert_checkpoint.py --gpt_variant gpt2 --model_dir SNAPSHOT "
            "--output_dir CHECKPOINT --dtype float16 --tp_size 1 --pp_size 1 --workers 1 --load_model_on_cpu "
            "--use_weight_only --weight_only_precision int8",
        ),
        (
            "gemma-2-2b-it",
            {"quantization": "int4-weight-only"},
            "0.17.0",
            "python3 /app/examples/gemma/convert_checkpoint.py --ckpt-type hf --model-dir SNAPSHOT "
            "--output-model-dir CHECKPOINT --dtype bfloat16 --world-size 1 --load_model_on_cpu "
            "--use-weight-only-with-precision int4",
        ),
        (
            "falcon-7b",
            {"pp_size": 2},
            "1.0.0",
            "python3 /app/examples/models/contrib/falcon/convert_checkpoint.py --model_dir SNAPSHOT "
            "--output_dir CHECKPOINT --dtype bfloat16 --tp_size 1 --pp_size 2 --workers 1",
        ),
        (
            "llama-3-8b",
            {"quantization": "fp8", "kv_cache_dtype": "fp8", "calibration": DATA},
            "1.2.1",
            "python3 /app/examples/quantization/quantize.py --model_dir SNAPSHOT --output_dir CHECKPOINT "
            "--dtype bfloat16 --qformat fp8 --tp_size 1 --pp_size 1 --calib_size 512 --seed 1234 --kv_cache_dtype fp8 "
            "--calib_dataset CALIBRATION",
        ),
        (
            "qwen2.5-7b-instruct",
            {"quantization": "int4-awq", "calibration": "/data/calibration"},
            "0.20.0",
            "python3 /app/examples/quantization/quantize.py --model_dir SNAPSHOT --output_dir CHECKPOINT "
            "--dtype bfloat16 --qformat int4_awq --tp_size 1 --pp_size 1 --calib_size 512 --seed 1234 "
            "--awq_block_size 128 --calib_dataset CALIBRATION",
        ),
        (
            "mistral-7b",
            {"kv_cache_dtype": "int8", "calibration": DATA},
            "1.1.0",
            "python3 /app/examples/quantization/quantize.py --model_dir SNAPSHOT --output_dir CHECKPOINT "
            "--dtype bfloat16 --qformat full_prec --tp_size 1 --pp_size 1 --calib_size 512 --seed 1234 "
            "--kv_cache_dtype int8 --calib_dataset CALIBRATION",
        ),
    ],
    ids=["gemma-tp2", "opt-old", "gpt2-int8", "gemma-int4-old", "falcon-pp2", "fp8", "awq", "kv-only"],
)
def test_checkpoint_commands(alias: str, options: dict[str, object], version: str, command: str) -> None:
    assert make(alias, gpu_host(version=version), **options).steps[0] == command


@pytest.mark.parametrize(
    ("sku", "quantization", "kv_cache_dtype", "words"),
    [
        ("h100", "none", "auto", "--gemm_plugin bfloat16 --use_paged_context_fmha enable"),
        ("h100", "fp8", "auto", "--gemm_plugin disable --use_paged_context_fmha enable"),
        ("h100", "fp8", "fp8", "--gemm_plugin disable --use_paged_context_fmha enable"),
        ("h100", "w4a8-awq", "fp8", "--gemm_plugin bfloat16 --use_paged_context_fmha disable"),
        ("b200", "nvfp4", "fp8", "--gemm_plugin nvfp4 --use_paged_context_fmha enable"),
        ("h100", "none", "fp8", "--gemm_plugin bfloat16 --use_paged_context_fmha disable"),
        ("h100", "int4-awq", "fp8", "--gemm_plugin bfloat16 --use_paged_context_fmha disable"),
        ("a100", "none", "int8", "--gemm_plugin bfloat16 --use_paged_context_fmha disable"),
        ("h100", "fp8", "int8", "--gemm_plugin disable --use_paged_context_fmha disable"),
    ],
)
def test_attention_and_matrix_kernels_fit_the_types(
    sku: str, quantization: str, kv_cache_dtype: str, words: str
) -> None:
    """An engine whose cache has no paged context kernels ends the build of older releases."""
    calibration = None if (quantization, kv_cache_dtype) == ("none", "auto") else DATA
    plan = make(host=gpu_host(sku), quantization=quantization, kv_cache_dtype=kv_cache_dtype, calibration=calibration)
    build = plan.steps[1].split()
    pairs = words.split()
    assert all(build[build.index(name) + 1] == value for name, value in zip(pairs[::2], pairs[1::2], strict=True))


def test_long_prompts_that_cannot_be_computed_in_pieces_are_told() -> None:
    options = {"max_seq_len": 32768, "kv_cache_dtype": "int8", "calibration": DATA}
    plan = make("llama-3.1-8b-instruct", **options)
    assert any("prompts longer than 8192 tokens are refused" in warning for warning in plan.warnings)
    whole = make("llama-3.1-8b-instruct", max_num_tokens=32768, **options)
    assert not any("prompts longer" in warning for warning in whole.warnings)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("alias", ["llama-3-8b", "gemma-2-9b-it", "opt-125m", "qwen2.5-7b-instruct", "phi-4"])
@pytest.mark.parametrize("version", ["0.17.0", "1.2.1"])
def test_the_type_reaches_every_command(alias: str, dtype: str, version: str) -> None:
    convert, build = make(alias, gpu_host("h200", version=version), dtype=dtype).steps
    assert f"--dtype {dtype} " in convert
    assert f"--gpt_attention_plugin {dtype} " in build
    assert f"--gemm_plugin {dtype} " in build
    assert ("--use_paged_context_fmha enable" in build) == (dtype != "float32")


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"max_seq_len": 9000}, "was made for 8192 tokens", "--max-seq-len 8192"),
        ({"max_input_len": 8192}, "leaves no room for output", "--max-input-len 8191"),
        ({"max_batch_size": 512, "max_num_tokens": 256}, "each running request takes one", "--max-num-tokens 512"),
        ({"tp_size": 3}, "32 attention heads", "nearest possible: --tp 2"),
        ({"quantization": "fp8"}, "needs calibration data", "--calibration abisee/cnn_dailymail@"),
        ({"quantization": "fp8", "calibration": "cnn_dailymail"}, "a name alone is not a key", "History"),
        ({"calibration": DATA}, "needs no calibration data", "drop --calibration"),
        ({"build_option": {"gemm_plugn": "auto"}}, "did you mean 'gemm_plugin'", "it knows"),
        ({"build_option": {"gemm_plugin": "fast"}}, "expected one of auto, float16", "NAME=VALUE"),
        ({"build_option": {"opt_num_tokens": "many"}}, "expected a whole number, got 'many'", "NAME=VALUE"),
        ({"build_option": {"multiple_profiles": "maybe"}}, "expected enable or disable", "NAME=VALUE"),
        ({"build_option": {"max_output_len": "200"}}, "not an option of trtllm-build 1.2.1 any more", "--max-seq-len"),
        ({"build_option": {"tp_size": "2"}}, "any more", "use --tp"),
        ({"build_option": {"max-batch-size": "4"}}, "use --max-batch-size", "drop this"),
        ({"build_option": {"cluster_key": "H100"}}, "releases 0.17.0 to 1.1.0 have it", "drop it"),
        ({"build_option": {"lora_dir": "/x"}}, "key cannot see", "drop this"),
        (
            {"build_option": {"use_paged_context_fmha": "on"}, "kv_cache_dtype": "int8", "calibration": DATA},
            "no kernels for --dtype bfloat16 with --kv-cache-dtype int8",
            "--kv-cache-dtype auto",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_requests_that_cannot_be_built(options: dict[str, object], said: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        make(**options)  # type: ignore[arg-type]
    assert said in caught.value.message
    assert hint in caught.value.hint


def mixed_host() -> HostInfo:
    one, other = gpu_host("h100", 1), gpu_host("a100", 1)
    return dataclasses.replace(one, gpus=one.gpus + other.gpus)


@pytest.mark.parametrize(
    ("host", "options", "said", "hint"),
    [
        (gpu_host(gpus=0), {}, "no GPU is visible", "--gpus all"),
        (gpu_host(gpus=2), {"tp_size": 4}, "needs 4 GPUs, 2 are visible", "--tp 2 --pp 1"),
        (gpu_host("a100"), {"quantization": "fp8", "calibration": DATA}, "has no kernels", "int8-weight-only"),
        (gpu_host("v100"), {}, "does not support volta", "8.0 or later"),
        (gpu_host("l4"), {"model": "llama-3-70b"}, "does not fit NVIDIA-L4", "it fits with --tp 8 --pp 1"),
        (mixed_host(), {"tp_size": 2}, "several kinds: NVIDIA-A100-SXM4-80GB, NVIDIA-H100", "CUDA_VISIBLE_DEVICES"),
        (dataclasses.replace(gpu_host(), versions={}), {}, "tensorrt_llm is not installed", "26.07"),
        (dataclasses.replace(gpu_host(), tools={}), {}, "trtllm-build is not on PATH", "--backend llmapi"),
        (
            dataclasses.replace(gpu_host(version="0.19.0"), tools={}),
            {},
            "trtllm-build is not on PATH",
            "run inside nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        ),
        (
            dataclasses.replace(gpu_host(version="0.21.0"), tools={}),
            {},
            "trtllm-build is not on PATH",
            "25.08-trtllm-python-py3, or nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3, the last image with it",
        ),
        (dataclasses.replace(gpu_host(), versions={"tensorrt_llm": "1.3.0rc22"}), {}, "was removed after", "llmapi"),
        (dataclasses.replace(gpu_host(), versions={"tensorrt_llm": "0.16.0"}), {}, "too old", "25.07"),
    ],
    ids=[
        "no-gpu", "too-few", "no-fp8", "volta", "too-small", "mixed", "not-installed", "no-compiler",
        "no-compiler-unsafe-image", "no-compiler-before-llmapi", "removed",
        "too-old",
    ],
)  # fmt: skip
def test_hosts_that_cannot(host: HostInfo, options: dict[str, object], said: str, hint: str) -> None:
    rest = {name: value for name, value in options.items() if name != "model"}
    with pytest.raises(HostError) as caught:
        make(str(options.get("model", "llama-3-8b")), host, **rest)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_availability_says_why() -> None:
    assert BACKEND.availability(gpu_host()).reason == (
        "TensorRT-LLM 1.2.1 on 8 x NVIDIA-H100-80GB-HBM3: float32 float16 bfloat16; quantization int8-weight-only "
        "int4-weight-only int8-sq int4-awq w4a8-awq fp8; key/value cache auto int8 fp8"
    )
    dropped = BACKEND.availability(gpu_host("t4"))
    assert not dropped.is_available
    assert "does not support turing" in dropped.reason
    without = BACKEND.availability(gpu_host(gpus=0))
    assert not without.is_available
    assert "no GPU is visible" in without.reason


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"}, {"quantization": "int8-weight-only"}, {"tp_size": 2}, {"pp_size": 2},
        {"max_batch_size": 64}, {"max_input_len": 1024}, {"max_seq_len": 4096}, {"max_num_tokens": 4096},
        {"build_option": {"multiple_profiles": "enable"}}, {"kv_cache_dtype": "int8", "calibration": DATA},
    ],
    ids=lambda change: "-".join(change),
)  # fmt: skip
def test_a_changed_request_has_another_key(change: dict[str, object]) -> None:
    assert make(**change).key.digest != make().key.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    [
        gpu_host("h100-pcie"),
        gpu_host("h200"),
        gpu_host(version="1.2.0"),
        gpu_host(tensorrt="10.14.1.49"),
        dataclasses.replace(gpu_host(), platform="linux/aarch64"),
        dataclasses.replace(
            gpu_host(), gpus=tuple(dataclasses.replace(gpu, mig_profile="7g.80gb") for gpu in gpu_host().gpus)
        ),
    ],
    ids=["pcie", "h200", "trtllm", "tensorrt", "platform", "mig"],
)
def test_another_machine_has_another_key(host: HostInfo) -> None:
    assert make(host=host).key.digest != make().key.digest


@given(
    batch=st.integers(1, 256),
    seq=st.integers(64, 8192),
    alias=st.sampled_from(["llama-3-8b", "mistral-7b", "qwen2.5-7b-instruct"]),
)
def test_equal_requests_have_equal_keys(batch: int, seq: int, alias: str) -> None:
    options = {"max_batch_size": batch, "max_seq_len": seq}
    assert make(alias, **options).key == make(alias, **options).key


def test_what_does_not_change_an_engine_does_not_change_its_key() -> None:
    small = gpu_host(memory_gib=96, shm_gib=1)
    assert make(tp_size=2, host=small).key.digest == make(tp_size=2).key.digest
    assert make(tp_size=2, host=small).shape.options["workers"] == 2
    assert make(tp_size=2, host=gpu_host(memory_gib=24)).shape.options["workers"] == 1
    upstream_default = make(build_option={"paged_state": "enable"})
    assert upstream_default.key.digest == make().key.digest


@pytest.mark.parametrize(
    ("memory_mib", "is_same"), [(81251, True), (81559, True), (81920, True), (40960, False), (98304, False)]
)
def test_a_drivers_share_of_the_memory_is_not_another_gpu(memory_mib: int, is_same: bool) -> None:
    host = gpu_host(gpus=2)
    gpus = tuple(dataclasses.replace(gpu, memory_mib=memory_mib) for gpu in host.gpus)
    other = make(tp_size=2, host=dataclasses.replace(host, gpus=gpus))
    assert (other.key.digest == make(tp_size=2).key.digest) == is_same


def test_the_human_path_tells_what_it_is() -> None:
    plan = make("llama-3-8b", tp_size=2, quantization="fp8", kv_cache_dtype="fp8", calibration=DATA)
    model, sku, entry = plan.key.relative_path.parts
    assert model == "meta-llama--Meta-Llama-3-8B"
    assert sku == "NVIDIA-H100-80GB-HBM3"
    assert entry == f"tp2-pp1-bfloat16-fp8-kvfp8-{plan.key.short}"


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        (gpu_host(memory_gib=8), {}, "conversion and build need about"),
        (gpu_host(shm_gib=1), {"tp_size": 2}, "shared memory has 1.0 GiB, 2 ranks need about 1.5 GiB"),
        (gpu_host(tensorrt="10.9.0"), {}, "TensorRT 10.9.0 is installed"),
        (gpu_host(), {"quantization": "fp8", "calibration": "/data"}, "key holds the path /data"),
        (gpu_host("l4"), {}, "of 128 slots at 8192 tokens each"),
    ],
    ids=["host-memory", "shm", "tensorrt", "calibration", "slots"],
)
def test_warnings(host: HostInfo, options: dict[str, object], said: str) -> None:
    assert any(said in warning for warning in make(host=host, **options).warnings)


def test_an_unknown_gpu_is_planned_with_a_warning() -> None:
    host = gpu_host(gpus=1)
    gpu = dataclasses.replace(host.gpus[0], product="NVIDIA-X900", compute_capability="15.0")
    plan = make(host=dataclasses.replace(host, gpus=(gpu,)))
    assert plan.sku == "NVIDIA-X900"
    assert any("not in the catalog" in warning for warning in plan.warnings)


@given(
    model=st.sampled_from(catalog.models()),
    sku=st.sampled_from(catalog.skus()),
    version=st.sampled_from(catalog.trtllm_versions()),
    quantization=st.sampled_from(QUANTIZATIONS),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2]),
)
def test_every_request_ends_in_a_plan_or_a_clear_refusal(
    model: catalog.ModelInfo, sku: catalog.GpuSku, version: str, quantization: str, tp: int, pp: int
) -> None:
    needs_data = catalog.preset(quantization).is_calibrated
    spec = EngineSpec(
        model=model.name, quantization=quantization, tp_size=tp, pp_size=pp, calibration=DATA if needs_data else None
    )
    host = gpu_host(sku.aliases[0], 16, version=version)
    try:
        plan = BACKEND.plan(spec, resolved(model.name), host)
    except TrtBuildError as error:
        assert isinstance(error, SpecError | HostError)
        assert error.hint
        return
    assert plan.shape.world_size == tp * pp
    assert plan.shape.dtype in sku.architecture.dtypes
    assert len(plan.steps) == 2


def test_a_model_that_brings_code_is_refused_before_its_weights_are_fetched() -> None:
    with pytest.raises(SpecError, match="brings Python code that conversion would run") as caught:
        make("phi-3.5-mini")
    assert "--trust-remote-code" in caught.value.hint
    assert make("phi-3.5-mini", trust_remote_code=True).shape.options["trust_remote_code"] is True
