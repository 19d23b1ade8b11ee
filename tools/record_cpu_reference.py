"""Record the tokens that transformers generates greedily in float32 on the tiny random checkpoints.

Run it with an interpreter that has torch and transformers; the tests that use the result need neither::

    python tools/record_cpu_reference.py

It decides nothing about the engine: it writes ``tests/data/cpu_parity/reference.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.cpu_parity import checkpoints  # noqa: E402

NEW_TOKENS = 48


def record(name: str, directory: Path) -> dict[str, Any]:
    """Return the reference of one checkpoint: hash, tokens per prompt, smallest gap between the two best logits."""
    import torch
    from transformers import AutoModelForCausalLM

    digest = checkpoints.write_checkpoint(name, directory)
    # eager: the plainest attention there is, without kernels that round differently from machine to machine
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model.eval()
    if report["missing_keys"] or report["unexpected_keys"]:
        raise SystemExit(f"{name}: transformers sees missing or unexpected tensors: {report}")
    tokens, log_probs, gap = [], [], float("inf")
    for prompt in checkpoints.prompts():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = output.sequences[0, len(prompt) :].tolist()
        logits = torch.stack(output.logits)[:, 0]
        best = logits.topk(2).values
        gap = min(gap, float((best[:, 0] - best[:, 1]).min()))
        chosen = torch.log_softmax(logits, dim=-1)[range(len(new)), new]
        tokens.append(new)
        log_probs.append([round(float(value), 4) for value in chosen])
    return {"sha256": digest, "smallest_gap": gap, "tokens": tokens, "log_probs": log_probs}


# What transformers calls an option, and what the engine's tensors call it; on the second prompt of "llama".
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "repetition_penalty": ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    "bad_words": (
        {"bad_words_ids": [[198], [149, 299], [204, 81], [110, 155, 161]]},
        {"bad_words": [[198], [149, 299], [204, 81], [110, 155, 161]]},
    ),
    "min_tokens": ({"eos_token_id": 299, "min_new_tokens": 20}, {"end_id": 299, "min_tokens": 20}),
    "min_tokens_and_bad_words": (
        {"eos_token_id": 299, "min_new_tokens": 20, "bad_words_ids": [[189]]},
        {"end_id": 299, "min_tokens": 20, "bad_words": [[189]]},
    ),
}


def record_variants(directory: Path) -> dict[str, Any]:
    """Return the tokens of options that change greedy decoding."""
    import torch
    from transformers import AutoModelForCausalLM

    checkpoints.write_checkpoint("llama", directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = checkpoints.prompts()[1]
    variants = {}
    for name, (theirs, ours) in VARIANTS.items():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            **{"eos_token_id": None, **theirs},
        )
        tokens = output[0, len(prompt) :].tolist()
        if tokens[-1] == ours.get("end_id"):
            tokens.pop()  # the engine's contract leaves the end out
        variants[name] = {"options": ours, "tokens": tokens}
    return variants


def main() -> None:
    """Record every checkpoint, or the named ones."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(checkpoints.CONFIGS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = ROOT / "tests/data/cpu_parity/reference.json"
    known = json.loads(path.read_text()) if path.exists() else {"checkpoints": {}}
    known["made_with"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as scratch:
            known["checkpoints"][name] = record(name, Path(scratch))
        reference = known["checkpoints"][name]
        distinct = len({token for row in reference["tokens"] for token in row})
        print(f"{name}: {distinct} distinct tokens, smallest gap {reference['smallest_gap']:.5f}")
    with tempfile.TemporaryDirectory() as scratch:
        known["variants"] = record_variants(Path(scratch))
    known["checkpoints"] = {name: known["checkpoints"][name] for name in checkpoints.CONFIGS}
    path.write_text(json.dumps(known, separators=(",", ":")).replace('"},', '"},\n') + "\n")


if __name__ == "__main__":
    main()
