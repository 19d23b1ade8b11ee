"""Record what transformers generates from checkpoints whose files contradict each other or leave something out.

Run it once with transformers 4 and once with transformers 5; the tests that use the result need neither, nor torch::

    python tools/record_odd_models.py

It writes ``tests/data/odd_models/reference.json``, under the release that is installed. A checkpoint from which
transformers makes up values (missing or mismatched tensors) has no right tokens; that is recorded instead of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.odd_models import shapes  # noqa: E402

NEW_TOKENS = 24


def record(directory: Path) -> dict[str, Any]:
    """Return the tokens of one checkpoint, or why there are none."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    except Exception as error:  # noqa: BLE001  whatever it raises is its refusal
        return {"refused": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    invented = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if invented:
        return {"invented": invented[:3]}
    try:
        return {"tokens": [_generate(model.eval(), prompt) for prompt in shapes.prompts()]}
    except Exception as error:  # noqa: BLE001  some configurations are loaded and cannot compute
        return {"refused": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}


def _generate(model: Any, prompt: list[int]) -> list[int]:
    import torch

    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(output[0, len(prompt) :].tolist())


def main() -> None:
    """Record every shape."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    release = f"transformers {transformers.__version__}"
    path = ROOT / "tests/data/odd_models/reference.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known = {name: known[name] for name in shapes.SHAPES if name in known}
    for name in shapes.SHAPES:
        with tempfile.TemporaryDirectory() as scratch:
            digest = shapes.write_shape(name, Path(scratch))
            if known.get(name, {}).get("sha256") != digest:
                known[name] = {"sha256": digest}
            known[name][release] = record(Path(scratch))
        print(name, next(iter(known[name][release])), flush=True)
    known = {name: dict(sorted(known[name].items())) for name in shapes.SHAPES}
    lines = (f"{json.dumps(name)}: {json.dumps(each, separators=(',', ':'))}" for name, each in known.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
