"""Words of failing tools, as users report them, become one message and one hint each."""

from __future__ import annotations

import pytest

from trtbuild import catalog

# Lines as they appear in the issues named in catalog/complaints.yaml.
LINES = [
    (
        "gpu-memory",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...",
    ),
    ("gpu-memory", "[TRT] [E] 1: [defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)"),
    ("gpu-memory", "[TRT] [E] Requested amount of GPU memory (17179869184 bytes) could not be allocated."),
    ("host-memory", "Killed"),
    ("host-memory", "RuntimeError: [enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory"),
    ("shared-memory", "Bus error (core dumped)"),
    ("disk", "OSError: [Errno 28] No space left on device"),
    (
        "incompatible-device",
        "6: The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 8.0, please "
        "rebuild.",
    ),
    (
        "tensorrt-version",
        "6: The engine plan file is not compatible with this version of TensorRT, expecting library version 9.2.0.4 "
        "got 9.2.0.5, please rebuild.",
    ),
    ("engine-version", "Assertion failed: Tensor names in engine are not the same as expected"),
    ("engine-version", "Expected length != real length"),
    ("world-size", "[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp (worldConfig.cpp:90)"),
    ("driver", "CUDA driver version is insufficient for CUDA runtime version"),
    ("no-gpu", "RuntimeError: No CUDA GPUs are available"),
    ("no-gpu", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"),
    ("paged-context", "RuntimeError: Paged Context FMHA doesn't work with int8 kv cache currently."),
    ("paged-context", "FP8 Paged Context FMHA only works with fp8 quantization workflow currently."),
    ("blackwell-quantization", "RuntimeError: INT8/INT4 quantization is not supported on SM>=100."),
    ("cross-cache", "Assertion failed: Do not set crossKvCacheFraction for decoder-only model"),
    (
        "attention-types",
        "[TensorRT-LLM][ERROR] Assertion failed: FMHA kernels are not found "
        "(cpp/tensorrt_llm/kernels/fmhaDispatcher.cpp)",
    ),
    (
        "fp8-attention",
        "what():  [TensorRT-LLM][ERROR] Assertion failed: FP8 FMHA cannot be enabled except on Ada or Hopper or "
        "Blackwell "
        "Arch. (/code/tensorrt_llm/cpp/tensorrt_llm/common/attentionOp.cpp:2357)",
    ),
    (
        "fp8-attention",
        "what():  [TensorRT-LLM][ERROR] Assertion failed: getIdx() should not be used with entry 17",
    ),
    (
        "reuse-without-paged-context",
        "[TensorRT-LLM][ERROR] Assertion failed: When KV cache block reuse is set, model has to be built with "
        "paged context "
        "FMHA support (cpp/tensorrt_llm/batch_manager/trtGptModelInflightBatching.cpp:140)",
    ),
    ("reuse-with-windows", "[TensorRT-LLM][ERROR] Assertion failed: decoderFinishedEvent must be nullopt"),
    (
        "cache-less-engine",
        "what():  [TensorRT-LLM][ERROR] Assertion failed: KV-cache-less is only supported for context "
        "(/app/tensorrt_llm/cpp/tensorrt_llm/plugins/gptAttentionPlugin/gptAttentionPlugin.cpp:1019)",
    ),
    (
        "cache-less-engine",
        'model_instance_state.cc:1117] "Failed updating TRT LLM statistics: Internal - Failed to find Max KV cache '
        "blocks in "
        'metrics."',
    ),
    (
        "cache-too-small",
        "E1128 16:31:49.479096 227 backend_model.cc:634] ERROR: Failed to create instance: unexpected error when "
        "creating "
        "modelInstanceState: maxTokensInPagedKvCache must be large enough to process at least 1 sequence to completion "
        "(i.e. must be larger than beam_width * tokensPerBlock * maxBlocksPerSeq)",
    ),
    (
        "undefined-symbol",
        "ImportError: /usr/local/lib/python3.12/dist-packages/tensorrt_llm/libs/libth_common.so: undefined symbol: "
        "_ZNK5torch8autograd4Node4nameEv",
    ),
    ("awq-groups", "NotImplementedError: Weight shape 384 of each TP tp=2 is not divisible for block size 128"),
    ("llm-api-architecture", "ValueError: Unknown architecture for AutoModelForCausalLM: Gemma2ForCausalLM"),
    (
        "llm-api-quantization",
        "NotImplementedError: Unsupported quantization_config: {'bits': 4, 'quant_method': 'gptq', 'group_size': 128}.",
    ),
    ("config-without-key", "AttributeError: 'Gemma3Config' object has no attribute 'num_attention_heads'"),
    ("meta-tensor", "NotImplementedError: Cannot copy out of meta tensor; no data!"),
    (
        "engine-config-type",
        "UNAVAILABLE: Internal: unexpected error when creating modelInstanceState: [json.exception.type_error.302] "
        "type must "
        "be array, but is number",
    ),
    (
        "engine-config-key",
        "UNAVAILABLE: Internal: unexpected error when creating modelInstanceState: "
        "[json.exception.out_of_range.403] key "
        "'use_context_fmha_for_generation' not found",
    ),
    (
        "engine-unreadable",
        "[TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine "
        "(cpp/tensorrt_llm/runtime/tllmRuntime.cpp)",
    ),
    (
        "several-responses",
        "generate expects model to produce exactly 1 response, use generate stream for model that may generate various "
        "number of responses",
    ),
    ("no-kernel-image", "CUDA error: no kernel image is available for execution on the device"),
    ("missing-library", "ImportError: libnvinfer.so.10: cannot open shared object file: No such file or directory"),
    ("bindings", "ModuleNotFoundError: No module named 'tensorrt_llm.bindings'"),
    (
        "scripts-of-another-version",
        "ImportError: cannot import name 'infer_dtype' from 'tensorrt_llm.models.convert_utils'",
    ),
    ("missing-module", "ModuleNotFoundError: No module named 'datasets'"),
    ("unknown-argument", "trtllm-build: error: unrecognized arguments: --max_output_len 200"),
    ("illegal-argument", "trtllm-build: error: argument --gemm_plugin: invalid choice: 'fast' (choose from auto)"),
    (
        "dataset",
        "ConnectionError: Couldn't reach 'cnn_dailymail' on the Hub (LocalEntryNotFoundError), dataset unavailable",
    ),
    ("remote-code", "ValueError: Please pass the argument `trust_remote_code=True` to allow custom code to be run."),
    ("architecture", "AssertionError: Unsupported model architecture: MambaForCausalLM"),
    ("weights", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"),
    (
        "placeholder",
        "[libprotobuf ERROR text_format.cc:335] Error parsing text-format: 24:13: Expected integer, got: $",
    ),
    ("placeholder-engine-dir", "Both encoder and decoder model paths are empty"),
    ("template-version", "Cannot find parameter with name: tokenizer_dir"),
    ("batching-strategy", "Invalid gpt_model_type. Must be either V1/inflight_batching/inflight_fused_batching."),
    (
        "engine-config",
        "[json.exception.parse_error.101] parse error at line 1, column 1: attempting to parse an empty input",
    ),
    ("port", "failed to start HTTP service: Unavailable - Socket '0.0.0.0:8000' already in use"),
    (
        "nccl",
        "Failed, NCCL error cpp/tensorrt_llm/runtime/ncclCommunicator.cpp:101 'unhandled system error'",
    ),
    (
        "chat-template",
        "E1128 22:00:23.375888 3449 model_lifecycle.cc:642] \"failed to load 'm' version 1: Internal: ValueError: "
        "/engine/tokenizer: the chat template is not valid Jinja: Encountered unknown tag 'generation'.\"",
    ),
    (
        "tokenizer",
        "ValueError: /engine/tokenizer/tokenizer.json: not a tokenizer that this tokenizers library can read: EOF",
    ),
    ("mpi-slots", "There are not enough slots available in the system to satisfy the 4"),
]


@pytest.mark.parametrize(("name", "line"), LINES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(LINES)])
def test_a_line_tells(name: str, line: str) -> None:
    found = catalog.diagnose(1, ["Loading checkpoint shards", line, "", "Traceback follows"])
    assert found is not None
    assert (found.name, found.line) == (name, line)
    assert "{" not in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("exit_code", "name"), [(137, "host-memory"), (135, "shared-memory"), (139, "crash"), (134, "crash")]
)
def test_an_exit_code_tells(exit_code: int, name: str) -> None:
    found = catalog.diagnose(exit_code, ["[TRT-LLM] [I] Serializing engine to rank0.engine"])
    assert found is not None
    assert found.name == name


def test_killed_for_memory_says_how_much_it_needs() -> None:
    found = catalog.diagnose(137, [], needs="about 34.0 GiB")
    assert found is not None
    assert found.message == "out of host memory, needs about 34.0 GiB"


def test_details_of_the_line_are_in_the_message() -> None:
    device, version = (
        next(line for name, line in LINES if name == wanted) for wanted in ("incompatible-device", "tensorrt-version")
    )
    told = [found.message for line in (device, version) if (found := catalog.diagnose(1, [line]))]
    assert told == [
        "the engine was built for GPUs of compute capability 8.0, this one has 8.6",
        "the engine was built with TensorRT 9.2.0.5, this server has 9.2.0.4",
    ]


def test_unknown_failures_are_left_alone() -> None:
    assert catalog.diagnose(1, ["ValueError: something new"]) is None
    assert catalog.diagnose(0, []) is None


def test_every_complaint_can_be_found() -> None:
    assert {name for name, _ in LINES} | {"crash"} == {complaint.name for complaint in catalog.complaints()}
    for complaint in catalog.complaints():
        assert complaint.pattern or complaint.exit_codes


# What Triton 2.51 writes at every start without a GPU, whether its models load or not.
HEALTHY = [
    'W1128 22:00:20.608316 3449 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory '
    'pool will not be available: CUDA driver version is insufficient for CUDA runtime version"',
    'I1128 22:00:20.608380 3449 cuda_memory_manager.cc:117] "CUDA memory pool disabled"',
    'E1128 22:00:20.608469 3449 server.cc:241] "CudaDriverHelper has not been initialized."',
    'E1128 22:00:21.788988 3449 ensemble_scheduler.cc:1468] "unable to create stream for ens: CUDA driver version is '
    'insufficient for CUDA runtime version"',
    "I1128 22:00:23.163472 3449 grpc_server.cc:2558] Started GRPCInferenceService at 0.0.0.0:8001",
]
FAILED = [
    "E1128 22:00:23.375888 3449 model_lifecycle.cc:642] \"failed to load 'm' version 1: Internal: ValueError: broken\"",
    "error: creating server: Internal - failed to load all models",
]


def test_the_log_of_a_healthy_server_says_nothing() -> None:
    assert catalog.diagnose(1, HEALTHY) is None
    assert catalog.diagnose(1, [*HEALTHY, *FAILED]) is None


@pytest.mark.parametrize(
    "line",
    [
        "[TensorRT-LLM][INFO] [json.exception.out_of_range.403] key 'layer_types' not found",
        "[TensorRT-LLM][INFO] [json.exception.type_error.302] type must be string, but is null",
    ],
)
def test_what_every_good_start_prints_explains_nothing(line: str) -> None:
    assert catalog.diagnose(1, [line]) is None


def test_the_error_is_reported_and_not_the_warning_of_every_start() -> None:
    reason = "E1128 22:00:23 1 x.cc:1] ValueError: /e/tokenizer: the chat template is not valid Jinja: no tag 'x'."
    found = catalog.diagnose(1, [*HEALTHY, reason, *FAILED])
    assert found is not None
    assert (found.name, found.line) == ("chat-template", reason)


def test_an_error_wins_over_a_warning_and_a_warning_over_nothing() -> None:
    warning = 'W1128 22:00:20.608316 3449 gpu.cc:1] "CUDA driver version is insufficient for CUDA runtime version"'
    error = (
        "E1128 22:00:21.000000 3449 http_server.cc:1] failed to start HTTP service: Socket '0.0.0.0:1' already in use"
    )
    for lines in ([warning, error], [error, warning]):
        found = catalog.diagnose(1, lines)
        assert found is not None
        assert found.name == "port"
    found = catalog.diagnose(1, [warning, *FAILED])
    assert found is not None
    assert found.name == "driver"
