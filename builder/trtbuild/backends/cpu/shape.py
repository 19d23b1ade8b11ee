"""Limits and the key/value pool: as asked, else what the model and the host's memory allow. Pure."""

from __future__ import annotations

from trtbuild.backends.cpu.families import COVERED, read_decoder
from trtbuild.backends.cpu.options import CpuOptions
from trtbuild.backends.cpu.room import BLOCK_TOKENS, Room
from trtbuild.catalog import ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import EngineShape
from trtbuild.spec import JsonValue

DEFAULT_BATCH_SIZE = 8
DEFAULT_SEQ_LEN = 4096
DEFAULT_NUM_TOKENS = 256
"""Tokens per step: a step cannot be interrupted, so a long prompt is computed in pieces between others' tokens."""


def context_limit(info: ModelInfo) -> tuple[int, str]:
    """Return the longest sequence for which the graph is faithful, and which limit of the model that is."""
    if info.config is not None and info.architecture in COVERED:
        decoder = read_decoder(info.config)
        return decoder.context_tokens, decoder.context_reason
    limits = {"context": info.context_tokens}
    if info.sliding_window_tokens:
        limits["sliding window"] = info.sliding_window_tokens
    if info.rope_type == "longrope" and info.original_context_tokens:
        limits["context before longrope"] = info.original_context_tokens
    name = min(limits, key=lambda each: limits[each])
    return limits[name], name


def choose_shape(room: Room, options: CpuOptions, route: str) -> EngineShape:
    """Return every choice made, or refuse limits that contradict each other or the model."""
    spec, info = room.spec, room.info
    limit, limit_name = context_limit(info)
    if spec.max_seq_len is not None and spec.max_seq_len > limit:
        raise SpecError(
            f"max_seq_len={spec.max_seq_len}: the {limit_name} of {info.model_id} is {limit} tokens",
            hint=f"pass --max-seq-len {limit} or less",
        )
    batch = spec.max_batch_size or DEFAULT_BATCH_SIZE
    seq_len, pool = _pool(room, batch, limit)
    input_len = spec.max_input_len or seq_len - 1
    if input_len >= seq_len:
        raise SpecError(
            f"max_input_len={input_len} leaves no room for output within max_seq_len={seq_len}",
            hint=f"pass --max-input-len {seq_len - 1} or less",
        )
    num_tokens = spec.max_num_tokens or max(DEFAULT_NUM_TOKENS, batch)
    if num_tokens < batch:
        raise SpecError(
            f"max_num_tokens={num_tokens} is less than max_batch_size={batch}: each running request takes one per step",
            hint=f"pass --max-num-tokens {batch} or more",
        )
    built: dict[str, JsonValue] = {
        "weights": room.storage,
        "compute_type": options.compute_type,
        "dynamic_quantization_group_size": options.dynamic_quantization_group_size,
        "kv_cache_tokens": pool,
        "route": route,
        "trust_remote_code": spec.trust_remote_code and route == "optimum-intel",
    }
    return EngineShape(
        dtype=options.compute_type if spec.dtype == "auto" else spec.dtype,
        quantization=spec.quantization,
        kv_cache_dtype="int8" if spec.kv_cache_dtype == "int8" else options.compute_type,
        tp_size=1,
        pp_size=1,
        max_batch_size=batch,
        max_input_len=input_len,
        max_seq_len=seq_len,
        max_num_tokens=num_tokens,
        options=built,
    )


def _pool(room: Room, batch: int, limit: int) -> tuple[int, int]:
    """Return max_seq_len and the pool's tokens: as asked, else what every slot can use and memory allows."""
    spec = room.spec
    most = room.pool_limit_tokens()
    wanted_seq = spec.max_seq_len or min(limit, DEFAULT_SEQ_LEN)
    smallest = spec.kv_cache_tokens or (spec.max_seq_len or BLOCK_TOKENS)
    if smallest > most:
        raise HostError(
            f"{room.info.model_id} as {room.storage} needs {format_bytes(room.loaded_bytes)}, its key/value cache "
            f"{format_bytes(room.kv_token_bytes)} per token; {smallest} tokens do not fit into "
            f"{format_bytes(room.host.memory_bytes)} of memory, {most} would",
            hint="pass --quantization int8-weight-only, or a smaller --max-seq-len, --kv-cache-tokens or model",
        )
    if spec.kv_cache_tokens:
        pool = spec.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    else:
        pool = min(-(-wanted_seq // BLOCK_TOKENS) * BLOCK_TOKENS * batch, most)
    if pool >= wanted_seq:
        return wanted_seq, pool
    if spec.max_seq_len:
        raise SpecError(
            f"kv_cache_tokens={pool} cannot hold one sequence of max_seq_len={spec.max_seq_len}",
            hint=f"pass --kv-cache-tokens {-(-wanted_seq // BLOCK_TOKENS) * BLOCK_TOKENS} or more",
        )
    return pool, pool
