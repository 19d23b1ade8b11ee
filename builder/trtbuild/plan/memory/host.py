"""What conversion, build and serving need of the host: memory, shared memory, disk. Pure; high estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trtbuild.catalog import ModelInfo
from trtbuild.console.log import format_bytes
from trtbuild.plan.memory.layout import GIB, MIB, Layout, Line
from trtbuild.plan.memory.weights import stage_weights

ENGINE_OVERHEAD = 1.02
ENGINE_BASE_BYTES = 16 * MIB
"""An engine file against its weights. Source: memory.md, FAQ 1: engine size is close to the weights' size; the rest is
the graph and its kernels."""

TOKENIZER_BYTES = 32 * MIB
"""Tokenizer and configuration files of a snapshot; the largest tokenizer.json of the catalog (Gemma 2) has 17 MB."""

TOOL_BYTES = 4 * GIB
"""Host memory of one Python process with torch, TensorRT and tensorrt_llm loaded. Estimate."""

SHM_BASE_BYTES = GIB
SHM_RANK_BYTES = 256 * MIB
"""Shared memory of one server and of each rank under mpirun: Python models' regions and NCCL's shared-memory transport.

Source: tensorrtllm_backend's documentation runs containers with --shm-size=2g, enough for 4 ranks by this formula.
"""


@dataclass(frozen=True, kw_only=True)
class HostRoom:
    """Disk, memory and shared memory that making and serving an engine takes, in bytes."""

    snapshot_bytes: int
    checkpoint_bytes: int
    engine_bytes: int
    convert_memory_bytes: int
    build_memory_bytes: int
    shm_bytes: int
    lines: tuple[Line, ...]

    @property
    def disk_bytes(self) -> int:
        """Disk at the fullest moment: snapshot, checkpoint and engine are all there."""
        return self.snapshot_bytes + self.checkpoint_bytes + self.engine_bytes

    @property
    def host_memory_bytes(self) -> int:
        """Host memory of the hungrier of conversion and build."""
        return max(self.convert_memory_bytes, self.build_memory_bytes)


def host_room(model: ModelInfo, layout: Layout, *, workers: int = 1, is_calibrated: bool = False) -> HostRoom:
    """Return the room that fetching, converting, building and serving takes on the host.

    Args:
        model: The model.
        layout: How it is cut.
        workers: Ranks that are converted and built at the same time.
        is_calibrated: Quantization runs the model on calibration data first.
    """
    stages = stage_weights(model, layout)
    rank = max(stage.total for stage in stages)
    checkpoint = layout.tp_size * sum(stage.total for stage in stages)
    snapshot = model.stored_bytes + TOKENIZER_BYTES
    engine = math.ceil(checkpoint * ENGINE_OVERHEAD) + layout.world_size * ENGINE_BASE_BYTES
    copies = model.stored_bytes if is_calibrated else workers * rank
    convert = model.stored_bytes + copies + TOOL_BYTES
    build = workers * (2 * rank + TOOL_BYTES)
    shm = SHM_BASE_BYTES + (layout.world_size * SHM_RANK_BYTES if layout.world_size > 1 else 0)
    ranks = f"{layout.world_size} ranks"
    second = "a quantized copy" if is_calibrated else f"{workers} x {format_bytes(rank)} of a rank"
    lines = (
        snapshot_line(model),
        Line(label="disk: checkpoint", formula=f"weights of {ranks}", size_bytes=checkpoint, is_exact=model.is_exact),
        Line(label="disk: engine", formula=f"{ENGINE_OVERHEAD:g} x checkpoint", size_bytes=engine, is_exact=False),
        Line(
            label="host memory: conversion",
            formula=f"{format_bytes(model.stored_bytes)} model + {second} + {format_bytes(TOOL_BYTES)} tools",
            size_bytes=convert,
            is_exact=False,
        ),
        Line(
            label="host memory: build",
            formula=f"{workers} x (2 x {format_bytes(rank)} + {format_bytes(TOOL_BYTES)} tools)",
            size_bytes=build,
            is_exact=False,
        ),
        Line(
            label="shared memory",
            formula="1 GiB + 256 MiB per rank" if layout.world_size > 1 else "1 GiB",
            size_bytes=shm,
            is_exact=False,
        ),
    )
    return HostRoom(
        snapshot_bytes=snapshot,
        checkpoint_bytes=checkpoint,
        engine_bytes=engine,
        convert_memory_bytes=convert,
        build_memory_bytes=build,
        shm_bytes=shm,
        lines=lines,
    )


def snapshot_line(model: ModelInfo) -> Line:
    """Return the line of the download: as listed by the hub, else as counted."""
    known = "as listed" if model.listed_bytes else "as counted" if model.are_sizes_known else "estimated"
    return Line(
        label="disk: snapshot",
        formula=f"published weights, {known}, and tokenizer",
        size_bytes=model.stored_bytes + TOKENIZER_BYTES,
        is_exact=model.are_sizes_known,
    )


def estimate_warning(model: ModelInfo) -> str:
    """Return what to say of a model whose weights are not counted exactly."""
    how = "taken from the listing of its files" if model.listed_bytes else "estimated from config.json"
    return f"the sizes of {model.architecture} are not known exactly; its weights are {how}, memory figures may be off"


def build_workers(model: ModelInfo, layout: Layout, *, gpus: int, host_memory_bytes: int) -> int:
    """Return how many ranks to build at once: no more than GPUs, ranks, or what the host's memory carries."""
    rank = max(stage.total for stage in stage_weights(model, layout))
    by_memory = host_memory_bytes // (2 * rank + TOOL_BYTES)
    return max(1, min(gpus, layout.world_size, by_memory))
