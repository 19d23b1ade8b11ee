"""Which files hold a model's weights, by their names alone, in the order in which transformers looks for them.

Source: transformers 4.57 and 5.24, modeling_utils.py, ``_get_resolved_checkpoint_files``: model.safetensors, then the
index of shards, then the same two of pytorch_model.bin; no other name is looked for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from trtbuild.errors import FetchError
from trtbuild.untrusted import parse, shown

SINGLE = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER_CONFIG = "adapter_config.json"

_WHOLE = frozenset({SINGLE, SAFETENSORS_INDEX, PICKLE_INDEX, "pytorch_model.bin"})
# Mistral's own layout and adapters are no weights of the model itself to any loader.
_SAFETENSORS = re.compile(r"(?!consolidated|adapter_)[^/]+\.safetensors")
SHARD_NAME = re.compile(r"(?!consolidated|adapter_)[^/.]+\.safetensors")
"""What shards are called; names with more dots are copies in another precision (``model.fp16.safetensors``)."""

_PICKLE = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
_OTHER_WEIGHTS = re.compile(r"[^/]+\.(bin|pt|pth|ckpt|h5|msgpack|ot|gguf|ggml|onnx|tflite|safetensors)")


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Where the weights are.

    Attributes:
        index: The index that names the files, or None when ``files`` are known by name.
        files: Weight files; empty while the index has to be read first.
    """

    index: str | None
    files: tuple[str, ...]


def choose_weights(names: Iterable[str], model_id: str, *, allow_pickle: bool) -> WeightFiles:
    """Return the weights that transformers would load from files with these names.

    Raises:
        FetchError: There are none that may be used.
    """
    known = set(names)
    if ADAPTER_CONFIG in known and known & {"adapter_model.safetensors", "adapter_model.bin"} and known & _WHOLE:
        raise FetchError(
            f"{model_id} holds weights and an adapter ({ADAPTER_CONFIG}); with peft, transformers would load the "
            "adapter's base model and apply it, without peft these weights alone",
            hint=f"merge them (merge_and_unload, save_pretrained), or build from a copy without {ADAPTER_CONFIG}",
        )
    if SINGLE in known:
        return WeightFiles(index=None, files=(SINGLE,))
    if SAFETENSORS_INDEX in known:
        return WeightFiles(index=SAFETENSORS_INDEX, files=())
    pickles = sorted(name for name in known if _PICKLE.fullmatch(name))
    if pickles and allow_pickle:
        if PICKLE_INDEX in known:
            return WeightFiles(index=PICKLE_INDEX, files=())
        return WeightFiles(index=None, files=tuple(pickles))
    raise _no_weights(known, pickles, model_id)


def is_pickled(names: Iterable[str]) -> bool:
    """Say whether the weights among files with these names can be had as pickles only."""
    known = set(names)
    return not known & {SINGLE, SAFETENSORS_INDEX} and any(_PICKLE.fullmatch(name) for name in known)


def _no_weights(known: set[str], pickles: list[str], model_id: str) -> FetchError:
    if odd := sorted(name for name in known if _SAFETENSORS.fullmatch(name)):
        if len(odd) == 1:
            hint = f"if it is the whole model, rename {odd[0]} to {SINGLE} in a copy of the model"
        else:
            hint = f"if they are the shards of one model, write {SAFETENSORS_INDEX} beside a copy of them"
        return FetchError(
            f"{model_id} has {', '.join(odd[:3])}, but neither {SINGLE} nor {SAFETENSORS_INDEX}, the only names that "
            "transformers looks for",
            hint=hint,
        )
    if pickles:
        return FetchError(
            f"{model_id} has only pickled weights ({pickles[0]}), and loading a pickle can run any code",
            hint="add --allow-pickle if you trust its authors, or choose a --revision with safetensors (refs/pr/N)",
        )
    others = sorted(name for name in known if _OTHER_WEIGHTS.fullmatch(name))
    there = f"; it has {', '.join(others[:3])}" if others else ""
    return FetchError(
        f"{model_id} has no weights in safetensors format at the top of the repository{there}",
        hint="choose a repository or revision in Hugging Face format (config.json and *.safetensors)",
    )


def read_weight_map(index_text: str | bytes, *, index: str, model_id: str) -> dict[str, str]:
    """Return the file of each tensor, as an index names them.

    Raises:
        FetchError: It is no index, or names something that is no weight file beside it.
    """
    suffix = ".bin" if index == PICKLE_INDEX else ".safetensors"
    hint = "copy the model again, or save it again with transformers (save_pretrained), which writes a whole index"
    try:
        document = parse(index_text)
    except ValueError as error:
        raise FetchError(f"{index} of {model_id} cannot be read: {error}", hint=hint) from error
    found = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(found, dict) or not found:
        raise FetchError(f"{index} of {model_id}: weight_map: expected the file of each tensor", hint=hint)
    for tensor, name in found.items():
        if not isinstance(name, str) or "/" in name or not name.endswith(suffix):
            raise FetchError(
                f"{index} of {model_id}: weight_map: {shown(tensor)}: expected the name of a *{suffix} file beside it, "
                f"got {shown(name)}",
                hint=hint,
            )
    return found


def indexed_files(weight_map: dict[str, str], names: Iterable[str], *, index: str, model_id: str) -> tuple[str, ...]:
    """Return the files that an index names.

    Raises:
        FetchError: One of them is not there, or two are one on some disks.
    """
    wanted = sorted(set(weight_map.values()))
    if missing := sorted(set(wanted) - set(names)):
        raise FetchError(
            f"{index} of {model_id} names {', '.join(map(repr, missing[:3]))}, which is not there",
            hint="download or copy the missing file, or try another --revision",
        )
    refuse_twins(wanted, model_id)
    return tuple(wanted)


def refuse_twins(names: Iterable[str], model_id: str) -> None:
    """Refuse files that a disk without regard for case or Unicode form would silently take for one.

    Raises:
        FetchError: Two of them are.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other != name:
            raise FetchError(
                f"{model_id} has the files {other!r} and {name!r}, which are one where case or Unicode form is ignored",
                hint="choose another --revision, or copy the model and rename one of them",
            )


def left_out(names: Iterable[str], used: Iterable[str]) -> tuple[str, ...]:
    """Return the weight files at the top that transformers would not load, sorted: loaders that read all would."""
    return tuple(sorted({name for name in names if _SAFETENSORS.fullmatch(name)} - set(used)))
