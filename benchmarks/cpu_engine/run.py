"""Tokens per second of the cpu engine at 1 and 8 streams, against transformers on the same checkpoint.

    python benchmarks/cpu_engine/run.py
    python benchmarks/cpu_engine/run.py --peer-python /path/to/python/with/torch --threads 1

Each measurement is a process of its own, started after the previous one ended; the best of ``--repeat`` counts, since
other work on the machine can only slow a run down. Results mean something as ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
STREAMS = (1, 8)
PROMPT_TOKENS, NEW_TOKENS = 32, 64
SIZES: dict[str, dict[str, int]] = {
    "1m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "vocab_size": 1024},
    "124m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 32000},
}
ENGINES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16 weights": {"dtype": "bfloat16"},
    "float16 weights": {"dtype": "float16"},
    "int8": {"quantization": "int8-weight-only"},
    "int8, dynamic quantization": {
        "quantization": "int8-weight-only",
        "build_option": {"dynamic_quantization_group_size": "32"},
    },
    "int4": {"quantization": "int4-weight-only"},
    "bfloat16 weights and arithmetic": {"dtype": "bfloat16", "build_option": {"compute_type": "bfloat16"}},
}


def write_model(directory: Path, size: str) -> int:
    """Write a random llama; return its parameters."""
    from tests.data.cpu_parity import checkpoints

    heads = SIZES[size]["hidden_size"] // 64
    config = {**checkpoints.CONFIGS["llama"], **SIZES[size], "num_attention_heads": heads}
    config |= {"num_key_value_heads": max(1, heads // 3), "max_position_embeddings": 1024, "torch_dtype": "float32"}
    tensors = checkpoints.make_tensors(config, zlib.crc32(size.encode()))
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(checkpoints.safetensors_bytes(tensors))
    return sum(values.size for values in tensors.values())


def build(snapshot: Path, root: Path, spec: dict[str, Any]) -> float:
    """Build an engine below ``root``; return the seconds it took."""
    from trtbuild import backends
    from trtbuild.catalog import ModelInfo
    from trtbuild.host import inspect_host
    from trtbuild.plan import ResolvedModel
    from trtbuild.spec import EngineSpec

    info = ModelInfo.from_hf_config("local/benchmark", json.loads((snapshot / "config.json").read_text()))
    model = ResolvedModel(model_id="local/benchmark", revision="tree-0", source="directory", info=info)
    backend = backends.get("cpu")
    plan = backend.plan(EngineSpec(model="benchmark", max_seq_len=512, **spec), model, inspect_host(os.environ))
    (root / "engine").mkdir(parents=True)
    (root / "work").mkdir()
    started = time.monotonic()
    backend.build(plan, snapshot, root / "engine", root / "work")
    return time.monotonic() - started


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    return [
        [(17 * stream + 31 * token) % (vocab_size - 3) + 3 for token in range(PROMPT_TOKENS)] for stream in range(count)
    ]


def measure_engine(engine_dir: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Measure in this process; called in a fresh one."""
    templates = ROOT / "model_repo_templates"
    sys.path[:0] = [str(templates / "tensorrt_llm/cpu/1"), str(templates / "_shared")]
    import engine_worker

    started = time.monotonic()
    engine = engine_worker.Engine(engine_dir, {"inference_num_threads": threads, "enable_kv_cache_reuse": False})
    result: dict[str, Any] = {"load_s": time.monotonic() - started}

    def once(streams: int) -> float:
        begin = time.monotonic()
        made = 0
        for key, prompt in enumerate(prompts(streams, engine.vocab_size)):
            engine.submit({"key": key, "input_ids": prompt, "request_output_len": NEW_TOKENS})
        while engine.has_work:
            made += sum(len(event["tokens"]) for event in engine.step())
        assert made == streams * NEW_TOKENS
        return made / (time.monotonic() - begin)

    once(1)
    for streams in STREAMS:
        result[str(streams)] = max(once(streams) for _ in range(repeat))
    result["memory_bytes"] = _memory_bytes()
    return result


def measure_peer(snapshot: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Measure transformers in this process; called with an interpreter that has it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    started = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32).eval()
    result: dict[str, Any] = {"load_s": time.monotonic() - started}

    def once(streams: int) -> float:
        ids = torch.tensor(prompts(streams, model.config.vocab_size))
        begin = time.monotonic()
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert output.shape[1] == PROMPT_TOKENS + NEW_TOKENS
        return streams * NEW_TOKENS / (time.monotonic() - begin)

    once(1)
    for streams in STREAMS:
        result[str(streams)] = max(once(streams) for _ in range(repeat))
    result["memory_bytes"] = _memory_bytes()
    return result


def _memory_bytes() -> int:
    """Return what this process holds in memory, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


def child(python: str, kind: str, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    argv = [python, __file__, "--child", kind, "--path", str(path)]
    argv += ["--threads", str(arguments.threads), "--repeat", str(arguments.repeat)]
    env = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Build, measure, print a table and the JSON behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="124m")
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="default: all")
    parser.add_argument("--peer-python", help="interpreter with torch and transformers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", choices=["engine", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure = measure_engine if arguments.child == "engine" else measure_peer
        print(json.dumps(measure(arguments.path, arguments.threads, arguments.repeat)))
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        parameters = write_model(root / "snapshot", arguments.size)
        print(f"{parameters:,} parameters, {arguments.threads} threads, best of {arguments.repeat}", file=sys.stderr)
        if arguments.peer_python:
            results["transformers float32"] = child(arguments.peer_python, "peer", root / "snapshot", arguments)
        for number, name in enumerate(arguments.engine or ENGINES):
            build_s = build(root / "snapshot", root / str(number), ENGINES[name])
            engine = root / str(number) / "engine"
            file_bytes = (engine / "openvino_model.bin").stat().st_size
            results[name] = child(sys.executable, "engine", engine, arguments)
            results[name] |= {"build_s": build_s, "engine_bytes": file_bytes}
    report(results)
    print(json.dumps({"size": arguments.size, "threads": arguments.threads, "results": results}))


def report(results: dict[str, dict[str, Any]]) -> None:
    """Print the table; ratios are against the first row."""
    base = next(iter(results.values()))
    head = ("", "tok/s 1", "tok/s 8", "x 1", "x 8", "build s", "load s", "memory MB", "file MB")
    print(f"{head[0]:<32}" + "".join(f"{title:>10}" for title in head[1:]), file=sys.stderr)
    for name, row in results.items():
        cells = [f"{row['1']:.1f}", f"{row['8']:.1f}", f"{row['1'] / base['1']:.2f}", f"{row['8'] / base['8']:.2f}"]
        cells += [f"{row['build_s']:.1f}" if "build_s" in row else "-", f"{row['load_s']:.2f}"]
        cells += [f"{row['memory_bytes'] / 1e6:.0f}", f"{row['engine_bytes'] / 1e6:.0f}" if "build_s" in row else "-"]
        print(f"{name:<32}" + "".join(f"{cell:>10}" for cell in cells), file=sys.stderr)


if __name__ == "__main__":
    main()
