"""What a plan should say although nothing forbids it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trtbuild.backends.tensorrt_llm.shape import compiler_options, split_calibration
from trtbuild.backends.tensorrt_llm.target import Target
from trtbuild.catalog import ModelInfo, image_name, image_warning
from trtbuild.console.log import format_bytes
from trtbuild.plan import EngineShape, memory
from trtbuild.spec import HostInfo


def plan_warnings(
    model: ModelInfo,
    shape: EngineShape,
    target: Target,
    *,
    host: HostInfo,
    gpu: memory.GpuMemory,
    room: memory.HostRoom,
) -> Iterator[str]:
    """Yield what the user should know but nothing forbids."""
    if target.architecture is None:
        yield (
            f"{target.product} (compute capability {target.gpu.compute_capability}) is not in the catalog; "
            "whether it can compute with these types is not checked"
        )
    if unsafe := image_warning(target.release):
        yield unsafe
    if not model.is_exact:
        yield memory.estimate_warning(model)
    yield from _window_warnings(model, shape)
    expected = target.release.tensorrt
    found = host.versions.get("tensorrt")
    if found and not expected.startswith(found) and not found.startswith(expected):
        images = ", ".join(image_name(triton) for triton in target.release.triton)
        yield f"TensorRT {found} is installed, {images} have {expected}; the engine runs with {found} only"
    if host.memory_bytes and host.memory_bytes < room.host_memory_bytes:
        yield (
            f"conversion and build need about {format_bytes(room.host_memory_bytes)} of host memory, "
            f"{format_bytes(host.memory_bytes)} are there; a tool that ends with exit code 137 ran out of it"
        )
    if shape.world_size > 1 and host.shm_bytes < room.shm_bytes:
        yield (
            f"shared memory has {format_bytes(host.shm_bytes)}, {shape.world_size} ranks need about "
            f"{format_bytes(room.shm_bytes)} (docker: --shm-size; Kubernetes: a volume at /dev/shm)"
        )
    if compiler_options(shape)["use_paged_context_fmha"] == "disable" and shape.max_input_len > shape.max_num_tokens:
        yield (
            f"prompts longer than {shape.max_num_tokens} tokens are refused: this engine cannot compute them in pieces "
            "(use_paged_context_fmha is off); pass a larger --max-num-tokens"
        )
    calibration = shape.options.get("calibration")
    if isinstance(calibration, str) and not split_calibration(calibration)[1]:
        yield f"the engine's key holds the path {calibration}, not its contents: do not change the data in place"
    if gpu.full_sequences < shape.max_batch_size:
        yield (
            f"the key/value cache holds {gpu.kv_tokens:,} tokens: {gpu.full_sequences} of {shape.max_batch_size} slots "
            f"at {shape.max_seq_len} tokens each; shorter requests use more slots"
        )


def _window_warnings(model: ModelInfo, shape: EngineShape) -> Iterator[str]:
    windows = shape.options.get("attention_windows")
    if isinstance(windows, list):
        yield (
            f"{model.name} attends to {model.sliding_window_tokens} tokens in some layers: max_attention_window_size "
            f"{','.join(map(str, windows))} is served, and with it no reuse of prompt beginnings and no prompts in "
            "pieces; "
            f"both work with --max-seq-len {model.sliding_window_tokens} or less"
        )
    elif model.sliding_window_tokens == shape.max_seq_len < model.context_tokens:
        yield (
            f"sequences end at the attention window of {model.name}, {shape.max_seq_len} of {model.context_tokens} "
            "tokens; "
            "a larger --max-seq-len is served with windows, without reuse of prompt beginnings"
        )
