"""The model of a request: which exact bytes it names, whether they can be built, and where they are on this disk.

It decides what a name stands for, once per run: the commit, the listing and the facts stay together in
:class:`~trtbuild.plan.ResolvedModel`. How files are downloaded is ``fetch``; what they mean is ``model``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trtbuild import catalog, fetch, packaged
from trtbuild.catalog import ModelInfo
from trtbuild.console import log
from trtbuild.errors import SpecError
from trtbuild.fetch import Hub, Resolved
from trtbuild.fetch.cache import RepoCache
from trtbuild.model.checkpoint import Weights, resolve_weights
from trtbuild.model.files import choose_weights, is_pickled
from trtbuild.plan import ResolvedModel
from trtbuild.spec import EngineSpec


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where models come from.

    Attributes:
        hub: How to reach Hugging Face.
        cache: The Hugging Face cache directory (``.../hub``).
        memo: File in which the hashes of local directories are remembered.
        packaged: Directory in which models that come in Python packages are kept.
    """

    hub: Hub
    cache: Path
    memo: Path
    packaged: Path


def resolve_model(spec: EngineSpec, source: ModelSource) -> ResolvedModel:
    """Pin the model to exact bytes: a commit, or the tree hash of a directory.

    Raises:
        SpecError: The directory holds no model.
        FetchError: The hub does not know it, or cannot be reached.
    """
    directory = Path(spec.model).expanduser()
    known = catalog.find_model(spec.model)
    if directory.is_dir() and (known is None or "/" in spec.model):
        return _resolve_directory(directory, source.memo)
    if known is not None and known.package is not None:
        return _resolve_package(known, spec, source)
    _check_hub_id(spec.model, known)
    model_id = known.model_id if known else spec.model
    resolved = fetch.resolve(model_id, spec.revision, hub=source.hub, cache=source.cache)
    repo = RepoCache(source.cache, model_id)
    info = known or catalog.find_model(model_id)
    if info is None or not is_catalogs_revision(resolved.commit, spec.revision, repo):
        config = fetch.read_config(resolved, hub=source.hub, cache=source.cache)
        listed = repo.read_tree(resolved.commit)
        resolved = replace(resolved, files=listed)
        sizes = None if listed is None else {file.path: file.size for file in listed}
        info = _with_listing(ModelInfo.from_hf_config(model_id, config), sizes)
    alias = spec.model if known and spec.model != model_id else None
    return ResolvedModel(
        model_id=model_id, revision=resolved.commit, source="hub", info=info, alias=alias, files=resolved.files
    )


def is_catalogs_revision(commit: str, revision: str, repo: RepoCache) -> bool:
    """Say whether the catalog's facts hold for a revision: they are of ``main``; other branches may differ.

    A commit counts when it is the one that ``main`` had when it was last asked for: a pod's server names the commit
    that its init container found.
    """
    return revision == "main" or repo.read_ref("main") == commit


def _resolve_directory(directory: Path, memo: Path) -> ResolvedModel:
    directory = directory.resolve()
    if not (directory / "config.json").is_file():
        raise SpecError(
            f"{directory} holds no config.json, so it is no Hugging Face model",
            hint="name a directory as huggingface_hub or save_pretrained writes it",
        )
    model_id = f"local/{directory.name}"
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    return ResolvedModel(
        model_id=model_id,
        revision=fetch.hash_directory(directory, memo=memo),
        source="directory",
        directory=directory,
        info=_with_listing(ModelInfo.from_hf_config(model_id, fetch.load_config(directory)), sizes),
    )


def _resolve_package(known: ModelInfo, spec: EngineSpec, source: ModelSource) -> ResolvedModel:
    """Return the directory that a package's model is converted to; its alias stays the one in the catalog."""
    if spec.revision != "main":
        raise SpecError(
            f"{known.name} comes in a Python package and has no revision {spec.revision!r}", hint="leave --revision out"
        )
    directory = packaged.provide(
        known, source.packaged, tree_of=lambda path: fetch.hash_directory(path, memo=source.memo)
    )
    return replace(_resolve_directory(directory, source.memo), model_id=known.model_id, alias=known.name)


def _with_listing(info: ModelInfo, sizes: Mapping[str, int] | None) -> ModelInfo:
    """Return a model with what its files' listing says: their format, and where config.json does not, their bytes.

    Args:
        info: What config.json says.
        sizes: Bytes of each file by name; None where nobody has listed them.
    """
    if sizes is None:
        return info
    info = replace(info, safetensors=not is_pickled(sizes))
    return info if info.are_sizes_known else replace(info, listed_bytes=fetch.weight_bytes(sizes))


def _check_hub_id(name: str, known: ModelInfo | None) -> None:
    """Refuse what can be no Hugging Face id before any network.

    Source: huggingface_hub ``validate_repo_id``: ``name`` or ``namespace/name`` of ``[A-Za-z0-9._-]``, at most 96.
    """
    if known is None and not re.fullmatch(r"(?:[\w.-]+/)?[\w-][\w.-]{0,95}", name):
        raise SpecError(
            f"{name!r} is no catalog alias, no directory and no Hugging Face id",
            hint="trtbuild models lists the catalog",
        )
    if known is None and "/" not in name:
        near = ", ".join(catalog.closest_models(name)[:3])
        raise SpecError(
            f"{name!r} is no catalog alias and no directory" + (f"; did you mean {near}?" if near else ""),
            hint="a Hugging Face id has the form organisation/name; trtbuild models lists the catalog",
        )


def check_files(model: ResolvedModel, spec: EngineSpec) -> None:
    """Refuse what a build would refuse as early as it can be known: from a directory, or by the hub's listing.

    Raises:
        FetchError: The weights contradict themselves or config.json, or there is no tokenizer that the server can read.
    """
    if model.directory is not None:
        _, weights = _check_directory(model.directory, spec)
        _warn_of(weights, model.directory)
        return
    if model.files is not None:
        names = [file.path for file in model.files]
        fetch.check_tokenizer_names(model.model_id, names)
        choose_weights(names, model.model_id, allow_pickle=spec.allow_pickle)


def pin_calibration(spec: EngineSpec, source: ModelSource) -> EngineSpec:
    """Pin local calibration data by its contents: what it says ends up in the engine's scales."""
    directory = Path(spec.calibration).expanduser() if spec.calibration else None
    if directory is None or not directory.is_dir():
        return spec
    pin = fetch.hash_directory(directory, memo=source.memo)
    return replace(spec, calibration=f"{directory.resolve()}@{pin}")


def missing_bytes(model: ResolvedModel, spec: EngineSpec, source: ModelSource) -> int | None:
    """Return the bytes of the snapshot that are not on the disk yet, or None when its files are not known yet."""
    return fetch.missing_bytes(
        _listing(model), cache=source.cache, allow_pickle=spec.allow_pickle, allow_code=spec.trust_remote_code
    )


def complete_files(model: ResolvedModel, spec: EngineSpec, source: ModelSource) -> Path | None:
    """Return the directory with the model's files where all of them are on this disk, else None; no network is used."""
    if model.directory is not None:
        return model.directory
    if missing_bytes(model, spec, source) != 0:
        return None
    return RepoCache(source.cache, model.model_id).snapshot(model.revision)


def fetch_model(model: ResolvedModel, spec: EngineSpec, source: ModelSource, work_dir: Path) -> Path:
    """Return a directory with the model's files, complete and checked, downloading what is missing.

    Raises:
        FetchError: They cannot be had, or contradict themselves.
    """
    if model.directory is not None:
        snapshot, weights = _check_directory(model.directory, spec)
    else:
        snapshot = fetch.snapshot(
            _listing(model), cache=source.cache, hub=source.hub, allow_pickle=spec.allow_pickle,
            allow_code=spec.trust_remote_code, check=fetch.check_tokenizer,
        )  # fmt: skip
        weights = _resolve_weights(snapshot, spec)
        _warn_of(weights, snapshot)
    return _without_other_weights(snapshot, weights, work_dir)


def _check_directory(directory: Path, spec: EngineSpec) -> tuple[Path, Weights]:
    snapshot = fetch.local_snapshot(directory, allow_pickle=spec.allow_pickle)
    fetch.check_tokenizer(snapshot)
    return snapshot, _resolve_weights(snapshot, spec)


def _listing(model: ResolvedModel) -> Resolved:
    return Resolved(model_id=model.model_id, revision=model.revision, commit=model.revision, files=model.files)


def _resolve_weights(directory: Path, spec: EngineSpec) -> Weights:
    return resolve_weights(directory, fetch.load_config(directory), allow_pickle=spec.allow_pickle)


def _without_other_weights(snapshot: Path, weights: Weights, work_dir: Path) -> Path:
    """Return a directory without the weights that transformers would not load: TensorRT-LLM's loaders read them all.

    Source: TensorRT-LLM 1.2, models/model_weights_loader.py and _torch/models/checkpoints/hf/weight_loader.py, which
    take every ``*.safetensors`` of a directory.
    """
    if not weights.left_out_files:
        return snapshot
    view = work_dir / "model"
    view.mkdir()
    for path in snapshot.iterdir():
        if path.name in weights.files:
            (view / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.suffix not in {".safetensors", ".bin"}:
            shutil.copyfile(path, view / path.name)
    return view


def _warn_of(weights: Weights, directory: Path) -> None:
    """Say what is left out of the weights, and of a chat template that does not compile what the server would say."""
    for warning in weights.warnings():
        log.get().warning("weights", warning)
    if fault := fetch.template_fault(directory):
        log.get().warning("chat_template", f"{fault}; the server will refuse messages and take text_input only")
