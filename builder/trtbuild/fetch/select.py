"""Which files of a model are needed. Pure: decides by names alone, downloads nothing.

A model on the hub is often stored several times over (safetensors, pickles, ``original/``, GGUF, ONNX, TensorFlow).
One set of weights is taken, the one that ``trtbuild.model`` chooses, and of the rest only what building and serving
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtbuild.errors import FetchError
from trtbuild.model.files import SHARD_NAME, SINGLE, choose_weights, indexed_files, read_weight_map, refuse_twins

_METADATA = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",  # NVIDIA ModelOpt checkpoints
        "merges.txt",
        "quant_config.json",  # AutoAWQ checkpoints
        "quantize_config.json",  # AutoGPTQ checkpoints
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
CONFIG_FILES = ("config.json", "hf_quant_config.json")
TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"})
_TIKTOKEN = re.compile(r"[^/]+\.tiktoken")
_CODE = re.compile(r"[^/]+\.py")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The names to have.

    Attributes:
        metadata: Configuration, tokenizer and, when allowed, code; small.
        index: The index that names the weight files, or None when ``weights`` are known by name.
        weights: Weight files; empty while the index has to be read first.
    """

    metadata: tuple[str, ...]
    index: str | None
    weights: tuple[str, ...]

    @property
    def first(self) -> tuple[str, ...]:
        """What can be fetched before an index is read."""
        return (*self.metadata, *([self.index] if self.index else []))


def select(names: Iterable[str], *, model_id: str, allow_pickle: bool, allow_code: bool) -> Selection:
    """Return which of a repository's files are needed.

    Raises:
        FetchError: There is no configuration, or no weights that may be used.
    """
    known = set(names)
    if "config.json" not in known:
        raise FetchError(
            f"{model_id} has no config.json at the top of the repository",
            hint="choose a repository or revision in Hugging Face format (config.json and *.safetensors)",
        )
    metadata = sorted(
        name
        for name in known
        if name in _METADATA or _TIKTOKEN.fullmatch(name) or (allow_code and _CODE.fullmatch(name))
    )
    weights = choose_weights(known, model_id, allow_pickle=allow_pickle)
    refuse_twins([*metadata, *weights.files], model_id)
    return Selection(metadata=tuple(metadata), index=weights.index, weights=weights.files)


def weight_bytes(sizes: Mapping[str, int]) -> int:
    """Return the bytes of the safetensors that would be chosen among files of these sizes; 0 where there are none.

    Without an index at hand, every weight file at the top counts, which is what indexes name.
    """
    if SINGLE in sizes:
        return sizes[SINGLE]
    return sum(size for name, size in sizes.items() if SHARD_NAME.fullmatch(name))


def shards(index_text: str | bytes, names: Iterable[str], *, index: str, model_id: str) -> tuple[str, ...]:
    """Return the weight files that an index names.

    Raises:
        FetchError: The index is unreadable or names files that the repository does not have.
    """
    weight_map = read_weight_map(index_text, index=index, model_id=model_id)
    return indexed_files(weight_map, names, index=index, model_id=model_id)
