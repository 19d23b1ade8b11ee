"""Read and check a TensorRT-LLM engine directory.

It decides what a complete engine is: a config.json that parses, and a non-empty file for every rank it promises.
``trtllm-build`` writes config.json first and rank files one by one, so config.json alone proves nothing.

Source: tensorrt_llm/builder.py, Engine.save.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtbuild import untrusted
from trtbuild.errors import BuildError
from trtbuild.plan import EngineInfo

_HINT = "build it again; a build that was killed leaves no entry in the store, so the directory was changed afterwards"


def read_config(engine_dir: Path) -> dict[str, Any]:
    """Return the parsed config.json of an engine.

    Raises:
        BuildError: It is missing or not a JSON object.
    """
    path = engine_dir / "config.json"
    try:
        document = untrusted.read(path, untrusted.CONFIG_LIMIT_BYTES)
    except FileNotFoundError:
        raise BuildError(f"{engine_dir} has no config.json", hint=_HINT) from None
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint=_HINT) from None
    if not isinstance(document, dict):
        raise BuildError(f"{path}: expected a JSON object, got {type(document).__name__}", hint=_HINT)
    return document


def inspect_engine(engine_dir: Path) -> EngineInfo:
    """Return what an engine says of itself, after checking that every rank is there.

    Raises:
        BuildError: Something the server will need is missing, empty or contradictory.
    """
    config = read_config(engine_dir)
    try:
        info = _engine_info(config)
        mapping = config["pretrained_config"]["mapping"]
        world_size, cp_size = int(mapping.get("world_size", info.world_size)), int(mapping.get("cp_size", 1))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BuildError(f"{engine_dir}/config.json lacks or garbles {error}", hint=_HINT) from None
    if world_size != info.world_size * cp_size:
        raise BuildError(
            f"{engine_dir}/config.json: world_size {world_size} is not "
            f"tp {info.tp_size} x pp {info.pp_size} x cp {cp_size}",
            hint=_HINT,
        )
    for rank in range(world_size):
        path = engine_dir / f"rank{rank}.engine"
        size = path.stat().st_size if path.is_file() else 0
        if size == 0:
            state = "is empty" if path.is_file() else "is missing"
            promised = f"{world_size} rank{'s' if world_size > 1 else ''}"
            raise BuildError(f"{path.name} {state}: the engine promises {promised}", hint=_HINT)
    return info


def _engine_info(config: Mapping[str, Any]) -> EngineInfo:
    pretrained, build = config["pretrained_config"], config["build_config"]
    mapping = pretrained["mapping"]
    return EngineInfo(
        backend="tensorrt_llm",
        tp_size=int(mapping["tp_size"]),
        pp_size=int(mapping["pp_size"]),
        max_batch_size=int(build["max_batch_size"]),
        max_input_len=int(build["max_input_len"]),
        max_seq_len=int(build["max_seq_len"]),
        max_num_tokens=int(build["max_num_tokens"]),
        dtype=str(pretrained["dtype"]),
        vocab_size=int(pretrained["vocab_size"]),
        versions={"tensorrt_llm": str(config["version"])},
    )


def checkpoint_cache_dtype(checkpoint: Path) -> str:
    """Return the key/value cache type that a complete checkpoint asks for, as ``--kv-cache-dtype`` spells it.

    Source: tensorrt_llm/models/modeling_utils.py, QuantConfig.kv_cache_quant_algo: INT8, FP8 or null.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    quantization = config.get("quantization")
    asked = quantization.get("kv_cache_quant_algo") if isinstance(quantization, dict) else None
    return str(asked).lower() if asked else "auto"


def check_checkpoint(checkpoint: Path, world_size: int) -> str:
    """Return what is wrong with a converted checkpoint, or "".

    Source: TensorRT-LLM docs/source/legacy/architecture/checkpoint.md.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        found = int(config["mapping"]["world_size"])
    except FileNotFoundError:
        return "it has no config.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its config.json cannot be read: {error!r}"
    if found != world_size:
        return f"its config.json is for {found} ranks, expected {world_size}"
    missing = [
        name
        for name in (f"rank{rank}.safetensors" for rank in range(world_size))
        if not (checkpoint / name).is_file() or (checkpoint / name).stat().st_size == 0
    ]
    return f"missing or empty: {', '.join(missing)}" if missing else ""
