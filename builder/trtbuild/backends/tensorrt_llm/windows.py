"""Attention windows of an engine: the longest sequence that needs none, and how they are said to the C++ backend.

It decides when windows matter. An engine does not hold them: the backend's ``max_attention_window_size`` "regulates
both sliding window attention in the context phase and rolling buffer", and is the longest sequence when nobody says
it, so that layers with a window would see all tokens.

Source: TensorRT-LLM, examples/models/core/llama/README.md ("Sliding window attention"); tensorrtllm_backend,
model_instance_state.cc: a list is repeated over the layers.
"""

from __future__ import annotations

import json
from pathlib import Path

from trtbuild import untrusted
from trtbuild.backends.gpu import DEFAULT_SEQ_LEN
from trtbuild.catalog import ModelInfo
from trtbuild.errors import BuildError
from trtbuild.spec import EngineSpec

FILE = "attention_windows.json"


def windowless_length(spec: EngineSpec, model: ModelInfo) -> int | None:
    """Return the longest sequence for a request that names none, where a window is shorter than the usual one."""
    windows = [block.window_tokens for block in model.blocks if block.window_tokens]
    usual = min(DEFAULT_SEQ_LEN, model.context_tokens)
    if spec.max_seq_len is not None or not windows or min(windows) >= usual:
        return None
    return None if spec.max_input_len is not None and spec.max_input_len >= min(windows) else min(windows)


def attention_windows(model: ModelInfo, max_seq_len: int) -> tuple[int, ...]:
    """Return the windows of the layers, as the shortest pattern that repeats; empty where none is short."""
    all_layers = tuple(min(block.window_tokens or max_seq_len, max_seq_len) for block in model.blocks)
    if min(all_layers) >= max_seq_len:
        return ()
    for length in range(1, len(all_layers) + 1):
        if all(window == all_layers[layer % length] for layer, window in enumerate(all_layers)):
            return all_layers[:length]
    return all_layers


def write_windows(engine_dir: Path, windows: list[int]) -> None:
    """Keep the windows with the engine, for the repository that serves it."""
    (engine_dir / FILE).write_text(json.dumps(windows) + "\n", encoding="utf-8")


def read_windows(engine_dir: Path) -> list[int]:
    """Return the windows that are kept with an engine; empty where there are none.

    Raises:
        BuildError: The file cannot be read.
    """
    path = engine_dir / FILE
    if not path.is_file():
        return []
    try:
        windows = untrusted.read(path, untrusted.CONFIG_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint="remove the entry (trtbuild store rm)") from None
    if not isinstance(windows, list) or not all(isinstance(each, int) and each > 0 for each in windows):
        raise BuildError(f"{path}: expected a list of whole numbers", hint="remove the entry (trtbuild store rm)")
    return windows
