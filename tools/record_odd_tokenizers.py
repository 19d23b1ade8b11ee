"""Record what transformers makes of texts with tokenizers that are spread over several files.

Run it once with transformers 4 and once with 5; torch is not needed, and the tests that use the result need neither::

    python tools/record_odd_tokenizers.py

It writes ``tests/data/odd_tokenizers/reference.json``, under the release that is installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.odd_tokenizers import variants  # noqa: E402


def record(directory: Path) -> dict[str, Any]:
    """Return the ids of each text and the text that remains of them without special tokens, or the refusal."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        ids = [list(tokenizer(text)["input_ids"]) for text in variants.TEXTS]
        plain = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in variants.TEXTS]
        left = [tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False) for each in plain]
    except Exception as error:  # noqa: BLE001  whatever it raises is its refusal
        return {"refused": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    return {"ids": ids, "left": left, "eos": tokenizer.eos_token_id}


def main() -> None:
    """Record every variant."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    path = ROOT / "tests/data/odd_tokenizers/reference.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in variants.VARIANTS:
        with tempfile.TemporaryDirectory() as scratch:
            variants.write_variant(name, Path(scratch))
            known.setdefault(name, {})[f"transformers {transformers.__version__}"] = record(Path(scratch))
    known = {name: dict(sorted(known[name].items())) for name in variants.VARIANTS}
    lines = (f"{json.dumps(name)}: {json.dumps(each, separators=(',', ':'))}" for name, each in known.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
