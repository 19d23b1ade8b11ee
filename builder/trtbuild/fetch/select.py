"""Which files of a model are needed. Pure: decides by names alone, downloads nothing.

A model on the hub is often stored several times over (safetensors, pickles, ``original/``, GGUF, ONNX, TensorFlow).
One set of weights is taken, safetensors first, and of the rest only what building and serving read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtbuild.errors import FetchError
from trtbuild.untrusted import parse

SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"

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
# Copies in another precision (`model.fp16.safetensors`) and Mistral's own layout hold the same weights again.
_SAFETENSORS = re.compile(r"(?!consolidated|adapter_)[^/.]+\.safetensors")
_PICKLE = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
_OTHER_WEIGHTS = re.compile(r"[^/]+\.(bin|pt|pth|ckpt|h5|msgpack|ot|gguf|ggml|onnx|tflite|safetensors)")


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
    index, weights = _select_weights(known, model_id, allow_pickle)
    _refuse_twins([*metadata, *weights], model_id)
    return Selection(metadata=tuple(metadata), index=index, weights=weights)


def weight_bytes(sizes: Mapping[str, int]) -> int:
    """Return the bytes of the safetensors that would be chosen among files of these sizes; 0 where there are none.

    Without an index at hand, every weight file at the top counts, which is what indexes name.
    """
    if "model.safetensors" in sizes:
        return sizes["model.safetensors"]
    return sum(size for name, size in sizes.items() if _SAFETENSORS.fullmatch(name))


def shards(index_text: str | bytes, names: Iterable[str], *, index: str, model_id: str) -> tuple[str, ...]:
    """Return the weight files that an index names.

    Raises:
        FetchError: The index is unreadable or names files that the repository does not have.
    """
    suffix = ".safetensors" if index == SAFETENSORS_INDEX else ".bin"
    try:
        weight_map = parse(index_text)["weight_map"]
        wanted = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(
            f"{index} of {model_id} is not an index of weight files: {error}",
            hint="the model is broken at this revision; try another with --revision",
        ) from error
    missing = sorted(set(wanted) - set(names))
    strange = [name for name in wanted if "/" in name or not name.endswith(suffix)]
    if missing or strange or not wanted:
        reason = f"names {(missing or strange)[0]!r}, which is not there" if wanted else "names no files"
        raise FetchError(
            f"{index} of {model_id} {reason}",
            hint="the model is incomplete at this revision; try another with --revision",
        )
    _refuse_twins(wanted, model_id)
    return tuple(wanted)


def _refuse_twins(names: Iterable[str], model_id: str) -> None:
    """Refuse files that a disk without regard for case or Unicode form would silently take for one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other != name:
            raise FetchError(
                f"{model_id} has the files {other!r} and {name!r}, which are one where case or Unicode form is ignored",
                hint="choose another --revision, or copy the model and rename one of them",
            )


def _select_weights(known: set[str], model_id: str, allow_pickle: bool) -> tuple[str | None, tuple[str, ...]]:
    if "model.safetensors" in known:
        return None, ("model.safetensors",)
    if SAFETENSORS_INDEX in known:
        return SAFETENSORS_INDEX, ()
    if found := sorted(name for name in known if _SAFETENSORS.fullmatch(name)):
        return None, tuple(found)
    pickles = sorted(name for name in known if _PICKLE.fullmatch(name))
    if pickles and allow_pickle:
        return (PICKLE_INDEX, ()) if PICKLE_INDEX in known else (None, tuple(pickles))
    if pickles:
        raise FetchError(
            f"{model_id} has only pickled weights ({pickles[0]}), and loading a pickle can run any code",
            hint="add --allow-pickle if you trust its authors, or choose a --revision with safetensors (refs/pr/N)",
        )
    others = sorted(name for name in known if _OTHER_WEIGHTS.fullmatch(name))
    there = f"; it has {', '.join(others[:3])}" if others else ""
    raise FetchError(
        f"{model_id} has no weights in safetensors format at the top of the repository{there}",
        hint="choose a repository or revision in Hugging Face format (config.json and *.safetensors)",
    )
