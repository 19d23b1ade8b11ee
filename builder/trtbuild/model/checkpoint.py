"""The weights of a directory as transformers would load them: files, headers and tensors in one judgement.

It reads names, the index and headers, and values only where two tensors must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import FetchError
from trtbuild.model.config import resolve_config
from trtbuild.model.files import (
    SAFETENSORS_INDEX,
    choose_weights,
    indexed_files,
    left_out,
    read_weight_map,
)
from trtbuild.model.headers import Place, read_header, refuse_pointer
from trtbuild.model.tensors import expected_tensors, match_tensors
from trtbuild.untrusted import INDEX_LIMIT_BYTES, read_bytes, shown

_COMPARED_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What to load from a directory.

    Attributes:
        files: Names of the weight files, in order.
        index: Name of the index that names them, or None.
        places: Where each tensor is: by the names that its class gives them where that class is known, else by those
            in the files. Empty for pickles, which are not looked into.
        is_known: The tensors were held against the ones that the class computes with.
        left_out_tensors: Tensors that transformers ignores with a warning.
        left_out_files: Weight files beside them that transformers does not load.
    """

    files: tuple[str, ...]
    index: str | None
    places: Mapping[str, Place]
    is_known: bool
    left_out_tensors: tuple[str, ...]
    left_out_files: tuple[str, ...]

    def warnings(self) -> tuple[str, ...]:
        """Return what is left out, in words."""
        found = []
        if self.left_out_files:
            taken = self.index or ", ".join(self.files)
            found.append(
                f"there are two sets of weights: {taken} is taken, as transformers does, and "
                f"{_some(self.left_out_files)} left out"
            )
        if self.left_out_tensors:
            found.append(
                f"{_some(self.left_out_tensors)} stand in the files, but config.json describes a model without them: "
                "they are left out, as transformers does"
            )
        return tuple(found)


def resolve_weights(directory: Path, config: Mapping[str, Any], *, allow_pickle: bool = False) -> Weights:
    """Return the weights of a directory with a model.

    Raises:
        TrtBuildError: There are none, they contradict themselves or config.json, or a file is damaged; by name.
    """
    names = [entry.name for entry in directory.iterdir() if entry.is_file()]
    _refuse_own_name(config)
    chosen = choose_weights(names, str(directory), allow_pickle=allow_pickle)
    files, weight_map = chosen.files, None
    if chosen.index is not None:
        text = _read_index(directory / chosen.index)
        weight_map = read_weight_map(text, index=chosen.index, model_id=str(directory))
        files = indexed_files(weight_map, names, index=chosen.index, model_id=str(directory))
    others = left_out(names, files)
    if not files[0].endswith(".safetensors"):
        for name in files:
            refuse_pointer(directory / name)
        return Weights(
            files=files, index=chosen.index, places={}, is_known=False, left_out_tensors=(), left_out_files=others
        )
    places = _collect(directory, files)
    resolved = resolve_config(config, f"{directory.name}: config.json")
    expected = None if resolved.get("quantization_config") else expected_tensors(resolved)
    ignored: tuple[str, ...] = ()
    if expected is not None:
        matched = match_tensors(expected, places, resolved["architectures"][0])
        if weight_map is not None:
            _check_index(weight_map, matched.places)
        if matched.own_head is not None:
            _check_tied(matched.own_head, matched.places)
        places, ignored = dict(matched.places), matched.left_out
    return Weights(
        files=files,
        index=chosen.index,
        places=places,
        is_known=expected is not None,
        left_out_tensors=ignored,
        left_out_files=others,
    )


def _read_index(path: Path) -> bytes:
    try:
        return read_bytes(path, INDEX_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(f"{path} cannot be read: {error}", hint="download or copy the model again") from error


def _refuse_own_name(config: Mapping[str, Any]) -> None:
    if config.get("transformers_weights"):
        raise FetchError(
            f"config.json names the file of its weights (transformers_weights: "
            f"{shown(config['transformers_weights'])}), which is not supported",
            hint="save the model again with transformers (save_pretrained), or remove the key if model.safetensors "
            "holds the weights",
        )


def _collect(directory: Path, files: Sequence[str]) -> dict[str, Place]:
    """Return the tensors of all files by name.

    Raises:
        FetchError: One is in two files; which one counts would depend on the order of reading.
    """
    found: dict[str, Place] = {}
    for name in files:
        for place in read_header(directory / name):
            other = found.setdefault(place.name, place)
            if other is not place:
                raise FetchError(
                    f"{name}: tensor {shown(place.name)} is in another shard too, {other.path.name}",
                    hint="save the model again with transformers (save_pretrained), or copy it again from its origin",
                )
    return found


def _check_index(weight_map: Mapping[str, str], places: Mapping[str, Place]) -> None:
    """Refuse an index that says something else than the shards: transformers 4 believes it, 5 the shards."""
    for place in places.values():
        said = weight_map.get(place.name)
        if said != place.path.name:
            raise FetchError(
                f"{SAFETENSORS_INDEX} says that tensor {shown(place.name)} is in {shown(said) if said else 'no file'}, "
                f"but it is in {place.path.name}",
                hint=f"correct weight_map in {SAFETENSORS_INDEX}, or copy the model again from its origin",
            )


def _check_tied(head: Place, places: Mapping[str, Place]) -> None:
    """Refuse an own output head where config.json ties it to the embeddings, unless the two are equal.

    transformers 4 takes the embeddings for both, 5 (``tie_weights``) each where the file has both.
    """
    embedding = next(at for name, at in places.items() if name.endswith(("embed_tokens.weight", "wte.weight")))
    if head.shape == embedding.shape and head.dtype == embedding.dtype and _are_equal(head, embedding):
        return
    raise FetchError(
        f"config.json says that the output head is the embeddings (tie_word_embeddings), and {head.path.name} has a "
        f"{shown(head.name)} that differs from {shown(embedding.name)}; transformers 4 takes the embeddings, "
        "transformers 5 the head",
        hint='if the head in the files is the model\'s, set "tie_word_embeddings": false in config.json',
    )


def _are_equal(one: Place, other: Place) -> bool:
    with one.path.open("rb") as first, other.path.open("rb") as second:
        first.seek(one.begin)
        second.seek(other.begin)
        left = one.end - one.begin
        while left > 0:
            size = min(left, _COMPARED_BYTES)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
