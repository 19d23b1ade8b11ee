"""What a server needs of a model besides its engine, copied to where the engine is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from trtbuild.fetch.tokenizer import write_whole_tokenizer

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files of a snapshot that the front model needs; they are kept beside the engine, in ``tokenizer/``."""


def copy_tokenizer(snapshot: Path, target: Path) -> None:
    """Copy what the front model needs from a snapshot, and write its tokenizer whole.

    Links are followed, names are a fixed list. The key needs no field for this: the server puts the tokenizer together
    in the same way from the files of an older entry, so both are served alike.
    """
    target.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        source = snapshot / name
        if source.is_file():
            shutil.copyfile(source, target / name)
    write_whole_tokenizer(snapshot, target)
