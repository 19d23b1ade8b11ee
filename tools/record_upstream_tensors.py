#!/usr/bin/env python3
"""Record which tensors TensorRT-LLM's own ensemble and BLS models have, for tests/unit/test_upstream_tensors.py.

Reads the configurations of a checkout, or of tags in a git repository, and writes names, types and dims only:

    tools/record_upstream_tensors.py 0.19.0 ~/tensorrtllm_backend --tag v0.19.0
    tools/record_upstream_tensors.py 1.2.1 ~/TensorRT-LLM

It adds to tests/data/upstream_tensors.json, or replaces what is there under the same version.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "upstream_tensors.json"
MODELS = ("ensemble", "tensorrt_llm_bls")
PLACES = ("triton_backend/all_models/inflight_batcher_llm", "all_models/inflight_batcher_llm")


def read_config(checkout: Path, tag: str, model: str) -> str:
    """Return the text of a model's ``config.pbtxt``."""
    for place in PLACES:
        path = f"{place}/{model}/config.pbtxt"
        if tag:
            command = ["git", "-C", str(checkout), "show", f"{tag}:{path}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout
        elif (checkout / path).is_file():
            return (checkout / path).read_text(encoding="utf-8")
    raise SystemExit(f"error: {checkout} has no {PLACES[0]}/{model}/config.pbtxt\nhint: name a checkout, or a --tag")


def tensors(config: str) -> dict[str, dict[str, str]]:
    """Return ``{"input": {name: "TYPE [dims]"}, "output": ...}``; placeholders stay as they are."""
    text = re.sub(r"#.*", "", config).split("ensemble_scheduling")[0]
    found: dict[str, dict[str, str]] = {"input": {}, "output": {}}
    for side, block in re.findall(r"^(input|output)\s*\[(.*?)^\]", text, re.S | re.M):
        for entry in re.findall(r"\{((?:[^{}]|\{[^{}]*\})*)\}", block):
            fields = {key: re.search(pattern, entry) for key, pattern in FIELDS.items()}
            name, kind, dims = (match.group(1).strip() if match else "" for match in fields.values())
            if name:
                found[side][name] = f"{kind.removeprefix('TYPE_')} [{dims}]"
    return found


FIELDS = {"name": r'name:\s*"([^"]+)"', "type": r"data_type:\s*([^\s,]+)", "dims": r"dims:\s*\[([^\]]*)\]"}


def main() -> None:
    """Read the command line and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="of TensorRT-LLM")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--tag", default="", help="read this tag of the git repository instead of its files")
    options = parser.parse_args()
    document = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    document[options.version] = {model: tensors(read_config(options.checkout, options.tag, model)) for model in MODELS}
    DATA.write_text(json.dumps(dict(sorted(document.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
