"""Write the Triton model repository: render, check as strictly as the server would, swap in at once.

It decides names of models, what a repository must satisfy before anyone sees it, and how versions replace each other.
It does not know engines: a backend says how its engine model is rendered (:class:`trtbuild.plan.EngineTemplate`).

On disk ``root`` is a symbolic link to ``.<root name>.versions/<digest of the contents>`` beside it. A version is
written under another name and renamed, and the link is replaced by a rename, so a server that starts at any moment
sees a whole repository. Equal contents have an equal digest: writing them again changes nothing. What a writer that
was killed left half done is never pointed to, and removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trtbuild import diskspace, untrusted
from trtbuild.console import log
from trtbuild.console.log import format_bytes
from trtbuild.errors import RepositoryError
from trtbuild.plan import EngineInfo, EngineTemplate
from trtbuild.spec import JsonValue

if TYPE_CHECKING:
    import jinja2

_CONVERT = (
    "with transformers, AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY) writes one; "
    "copy the model's other files there too and build from DIRECTORY"
)
TEMPLATES = Path(__file__).resolve().parents[1] / "_templates"
DEFAULT_MAX_TOKENS = 16
"""Tokens generated when a request with ``text_input`` does not say; as in OpenAI's completions endpoint."""

KEPT_VERSIONS = 2
"""Versions that stay on disk: the current one and the one a running server may have been started with."""

LEFTOVER_AGE_S = 3600.0
"""Where no lock can prove a writer dead, it is taken for dead this long after it began; writing takes a second."""


_RECORD = "trtbuild-repository.json"
_VERSION = re.compile(r"[0-9a-f]{16}")
_LEFTOVER = re.compile(r"\.(?:staging|link)-(?:(?P<boot>[0-9a-f]{12})-)?[0-9a-f]{32}")
_RECORD_LIMIT_BYTES = 1 << 20
_SHARED = "_shared/trtbuild_front"
_LEFTOVERS = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache"})
_ENGINE = "tensorrt_llm"
_FULL = ("preprocessing", "postprocessing", "ensemble", "tensorrt_llm_bls")
_LIKE_FRONT = frozenset({"tensorrt_llm_bls"})
_WITH_SHARED = frozenset({"front", "preprocessing", "postprocessing", "tensorrt_llm_bls"})

Files = dict[str, bytes]
"""Contents by path below the repository, with ``/``; a path that ends in ``/`` is an empty directory."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One engine as clients see it.

    Attributes:
        served_name: Name of the front model.
        engine_template: How its engine model is rendered.
        engine_info: The engine's limits.
        tokenizer_dir: Directory with ``tokenizer.json`` and its companions.
        layout: ``minimal``, or ``full`` for the models of NVIDIA's own templates beside the front.
        decoupled: Whether the models that take text may stream; without it each request has exactly one response.
        max_queue_size: Requests that may wait before new ones are refused; 0 for no limit.
    """

    served_name: str
    engine_template: EngineTemplate
    engine_info: EngineInfo
    tokenizer_dir: Path
    layout: str = "minimal"
    decoupled: bool = True
    max_queue_size: int = 0


def write_repository(root: Path, models: Sequence[ServedModel], *, keep_others: bool = False) -> Path:
    """Make ``root`` the repository that serves ``models``.

    Args:
        root: Path of the repository; its parent must be writable.
        models: What to serve, each under its own name.
        keep_others: Keep what the repository serves under other names.

    Returns:
        ``root``, for ``--model-repository``.

    Raises:
        RepositoryError: Something cannot be rendered, does not pass the checks or cannot be written.
    """
    needed_bytes = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _writing(root) as boot:
            _sweep(_versions_directory(root), boot)
            _refuse_foreign(root)
            kept = _read_current(root) if keep_others else ({}, {})
            record, files = render_repository(models, kept=kept)
            needed_bytes = sum(map(len, files.values()))
            return _swap_in(root, record, files, boot)
    except OSError as error:
        raise unwritable(f"the model repository {root}", root.parent, error, needed_bytes=needed_bytes) from error


def unwritable(what: str, directory: Path, error: OSError, *, needed_bytes: int | None = None) -> RepositoryError:
    """Return the error for something that cannot be written below ``directory``: why, with the figures, and the remedy.

    Args:
        what: What cannot be written, for people.
        directory: Where it was to be.
        error: What the file system said.
        needed_bytes: Bytes that were to be written, when that is known.
    """
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    is_named = isinstance(error.filename, str | bytes) and not is_full
    named = Path(os.fsdecode(error.filename)) if is_named else directory
    there = next((path for path in (named, *named.parents) if _can_be_seen(path)), Path("/"))
    reason, elsewhere = error.strerror or str(error), "pass --repository with a directory on another disk"
    needs = f", {format_bytes(needed_bytes)} are needed" if needed_bytes is not None else ""
    lack = diskspace.reason(there, error)
    if error.errno == errno.ENOSPC and lack:
        reason = f"{lack}{needs}"
        hint = f"make room there (df -h {there}; trtbuild store gc if the store is on it), or {elsewhere}"
    elif error.errno == errno.EFBIG and lack:
        reason, hint = f"{lack}{needs}", "raise it (ulimit -f unlimited)"
    elif error.errno == errno.EDQUOT and lack:
        reason = f"{lack}{needs}"
        hint = f"remove what this user has there (quota -s), or {elsewhere}"
    elif error.errno == errno.EROFS:
        reason = f"{there} is on a read-only file system"
        hint = f"mount it writable, or {elsewhere}"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        info = there.stat()
        reason += (
            f": {there} belongs to uid {info.st_uid} gid {info.st_gid} mode {stat.S_IMODE(info.st_mode):04o}, "
            f"this process is uid {os.geteuid()} gid {os.getegid()}"
        )
        hint = f"make {there} writable for it (fsGroup or chown), or pass another --repository"
    else:
        hint = "make the directory above it writable, or pass another --repository"
    return RepositoryError(f"cannot write {what}: {reason}", hint=hint)


def _can_be_seen(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.stat()
        return True
    return False


Record = dict[str, list[str]]
"""Served name to the model directories that belong to it."""


def render_repository(
    models: Sequence[ServedModel], *, kept: tuple[Record, Files] | None = None
) -> tuple[Record, Files]:
    """Return the checked contents of a repository that serves ``models`` and, under other names, what was ``kept``.

    Raises:
        RepositoryError: A template, a name or a tensor is wrong.
    """
    served = [model.served_name for model in models]
    if len(set(served)) != len(served):
        raise RepositoryError(f"served names must differ, got {', '.join(served)}", hint="pass --name for one of them")
    old_record, old_files = kept or ({}, {})
    record: Record = {name: directories for name, directories in old_record.items() if name not in served}
    owned = {directory for directories in record.values() for directory in directories}
    files = {path: data for path, data in old_files.items() if path.split("/", 1)[0] in owned}
    for model in models:
        names = _model_names(model, owned)
        rendered = _render_model(model, names)
        files.update(rendered)
        record[model.served_name] = sorted(set(names.values()))
        owned |= set(names.values())
    files[_RECORD] = (json.dumps({"served": record}, indent=1, sort_keys=True) + "\n").encode()
    return dict(sorted(record.items())), dict(sorted(files.items()))


def _model_names(model: ServedModel, taken: set[str]) -> dict[str, str]:
    """Return the repository's name of every template of a model; later models get their served name as a prefix."""
    inner = [_ENGINE, *(_FULL if model.layout == "full" else ())]
    if model.served_name in inner or model.served_name in taken:
        raise RepositoryError(
            f"served name {model.served_name!r} is the name of another model of this repository",
            hint="pass another --name",
        )
    names = {name: name for name in inner}
    if taken & set(inner):
        names = {name: f"{model.served_name}-{name}" for name in inner}
        if clash := taken & set(names.values()):
            raise RepositoryError(f"model name {min(clash)!r} is taken in this repository", hint="pass another --name")
    return {"front": model.served_name, **names}


def _render_model(model: ServedModel, names: Mapping[str, str]) -> Files:
    """Return the files of one served model's directories, each config parsed and the ensemble's wiring checked."""
    _check_tokenizer(model)
    # The ensemble calls the engine model inside the server, and nothing of ours is in its requests.
    is_open = model.layout == "full"
    engine_variables = {**_engine_variables(model), "name": names[_ENGINE], "allow_direct_requests": is_open}
    files = _render_directory(model.engine_template.directory, names[_ENGINE], engine_variables)
    engine = _parse(files, names[_ENGINE])
    variables = _front_variables(model, names, engine)
    configs = {names[_ENGINE]: engine}
    for template, name in names.items():
        if template == _ENGINE:
            continue
        # Triton's ensembles are decoupled when a step is, and the engine always streams.
        source = "tensorrt_llm_bls" if template == "ensemble" and not model.decoupled else template
        files.update(_render_directory(source, name, {**variables, "name": name, "template": template}))
        configs[name] = _parse(files, name)
    for config in configs.values():
        _check_ensemble(config, configs)
    return files


def _engine_variables(model: ServedModel) -> dict[str, JsonValue]:
    """Return the variables of the engine's template; in the full layout whole answers begin with the prompt.

    That is upstream's default, and its clients cut the prompt off. Streams never begin with it, so the front model,
    which always streams, sees no difference.
    """
    variables = dict(model.engine_template.variables)
    parameters = variables.get("parameters")
    if model.layout == "full" and isinstance(parameters, list):
        others = [pair for pair in parameters if isinstance(pair, list) and pair[0] != "exclude_input_in_output"]
        variables["parameters"] = [*others, ["exclude_input_in_output", "false"]]
    return variables


def _check_tokenizer(model: ServedModel) -> None:
    directory = model.tokenizer_dir
    if (directory / "tokenizer.json").is_file():
        return
    if (directory / "tokenizer.model").is_file():
        raise RepositoryError(
            f"{directory} holds a tokenizer.model (SentencePiece) and no tokenizer.json, which the server needs",
            hint=_CONVERT,
        )
    if not model.tokenizer_dir.is_dir():
        raise RepositoryError(
            f"there is no directory {directory}",
            hint="the engine's entry is incomplete: trtbuild store verify names it; building again repairs it",
        )
    raise RepositoryError(
        f"{directory} holds no tokenizer.json",
        hint=f"the model that it was built from has none: {_CONVERT}",
    )


def _front_variables(model: ServedModel, names: Mapping[str, str], engine: Any) -> dict[str, JsonValue]:
    """Return what the templates of this package need to know of the engine, its limits and its own configuration."""
    info = model.engine_info
    parameters = {
        "engine_model": names[_ENGINE],
        "engine_inputs": ",".join(sorted(tensor.name for tensor in engine.input)),
        "engine_outputs": ",".join(sorted(tensor.name for tensor in engine.output)),
        "engine_has_batch_dimension": "true" if engine.max_batch_size > 0 else "false",
        "tokenizer_dir": str(model.tokenizer_dir),
        "slots": str(info.slots),
        "max_queue_size": str(model.max_queue_size),
        "max_input_len": str(info.max_input_len),
        "max_seq_len": str(info.max_seq_len),
        "default_max_tokens": str(DEFAULT_MAX_TOKENS),
        # NVIDIA's C++ backend cannot look at who asks; parameters it does not know stay away from it.
        "engine_knows_front": "true" if engine.backend == "python" and model.layout != "full" else "false",
    }
    return {
        "parameters": [list(pair) for pair in parameters.items()],
        "models": dict(names),
        "engine_batch_size": engine.max_batch_size,
        "engine_inputs": _tensors(engine.input),
        "engine_outputs": _tensors(engine.output),
        "upstream_inputs": _upstream_inputs(),
        "decoupled": model.decoupled,
        "tokenizer_dir": str(model.tokenizer_dir),
        "max_input_len": str(info.max_input_len),
    }


@functools.cache
def _upstream_inputs() -> dict[str, JsonValue]:
    """Return the inputs of TensorRT-LLM's own models by name, from the table that the models check requests with."""
    document = json.loads((TEMPLATES / _SHARED / "upstream_inputs.json").read_text(encoding="utf-8"))
    inputs: dict[str, JsonValue] = document["inputs"]
    return inputs


def _tensors(tensors: Any) -> dict[str, JsonValue]:
    """Return type and dims of a configuration's tensors by name."""
    names = _model_config_module().DataType
    return {tensor.name: {"type": names.Name(tensor.data_type), "dims": list(tensor.dims)} for tensor in tensors}


def quote_pbtxt(value: object) -> str:
    """Return ``value`` as a quoted string of protobuf's text format."""
    out = ['"']
    for byte in str(value).encode():
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 0x20 <= byte < 0x7F:
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return "".join(out) + '"'


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    # No HTML comes out of these; strings go through quote_pbtxt.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.filters["pbtxt"] = quote_pbtxt
    return environment


def _render_directory(template: str, name: str, variables: Mapping[str, JsonValue]) -> Files:
    """Return the files of one model directory; ``*.j2`` rendered, all others as they are."""
    import jinja2

    source = TEMPLATES / template
    if not (source / "config.pbtxt.j2").is_file():
        raise RepositoryError(f"there is no template {template!r} in {TEMPLATES}", hint="reinstall trtbuild")
    files: Files = {}
    for path in _files_below(source):
        relative = path.relative_to(source).as_posix()
        if path.suffix != ".j2":
            files[f"{name}/{relative}"] = path.read_bytes()
            continue
        try:
            text = _environment().from_string(path.read_text(encoding="utf-8")).render(variables)
        except jinja2.TemplateError as error:
            raise RepositoryError(
                f"template {template}/{relative} cannot be rendered: {error}",
                hint="please report this: a variable of the template was not given",
            ) from error
        files[f"{name}/{relative.removesuffix('.j2')}"] = text.encode()
    if template in _WITH_SHARED:
        shared = TEMPLATES / _SHARED
        for path in _files_below(shared):
            files[f"{name}/1/{shared.name}/{path.relative_to(shared).as_posix()}"] = path.read_bytes()
    if template in _LIKE_FRONT:
        files[f"{name}/1/model.py"] = (TEMPLATES / "front/1/model.py").read_bytes()
    if not any(path.startswith(f"{name}/1/") for path in files):
        files[f"{name}/1/"] = b""  # the server wants a version directory, even an empty one
    return files


def _files_below(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not _LEFTOVERS & set(path.relative_to(directory).parts)
    )


@functools.cache
def _model_config_module() -> ModuleType:
    """Return ``tritonclient.grpc.model_config_pb2`` without its package, which takes four times as long to import."""
    found = importlib.util.find_spec("tritonclient")
    for base in (found.submodule_search_locations or []) if found else []:
        path = Path(base) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("trtbuild_model_config_pb2", path)
        if path.is_file() and spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise RepositoryError(
        "the package tritonclient, which checks model configurations, is not installed",
        hint="pip install 'tritonclient[grpc]'",
    )


def _parse(files: Files, name: str) -> Any:
    """Return the parsed ``config.pbtxt`` of a model after the checks that hold for every model."""
    from google.protobuf import text_format

    text = files[f"{name}/config.pbtxt"].decode()
    for number, line in enumerate(text.splitlines(), 1):
        for mark in ("${", "{{", "{%"):
            if mark in line:
                raise RepositoryError(
                    f"{name}/config.pbtxt:{number}: unresolved placeholder: {line.strip()}",
                    hint="a value holds template syntax; choose paths and names without ${ and {{",
                )
    try:
        config = text_format.Parse(text, _model_config_module().ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryError(
            f"{name}/config.pbtxt:{error} is not a model configuration",
            hint="a template or a template_parameter is wrong; trtbuild plan shows the values",
        ) from error
    if config.name != name:
        raise RepositoryError(
            f"{name}/config.pbtxt: expected name {name!r}, got {config.name!r}",
            hint="please report this: a template ignores its variable name",
        )
    for tensors in (config.input, config.output):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            twice = sorted({tensor for tensor in names if names.count(tensor) > 1})
            raise RepositoryError(f"{name}/config.pbtxt: tensors named twice: {', '.join(twice)}", hint="rename one")
    return config


def _check_ensemble(config: Any, configs: Mapping[str, Any]) -> None:
    """Check that an ensemble's steps name existing models and tensors of one type, and that each has a source."""
    types = {tensor.name: tensor.data_type for tensor in config.input}
    steps = list(config.ensemble_scheduling.step)
    for step in steps:
        target = configs.get(step.model_name)
        if target is None:
            raise _wiring(config.name, f"step model {step.model_name!r} is not in this repository")
        for theirs, ours in step.output_map.items():
            types[ours] = _tensor_type(config.name, target, "output", theirs)
    for step in steps:
        for theirs, ours in step.input_map.items():
            wanted = _tensor_type(config.name, configs[step.model_name], "input", theirs)
            if types.get(ours, wanted) != wanted or ours not in types:
                fault = "has another type" if ours in types else "comes from nowhere"
                raise _wiring(config.name, f"{step.model_name}.{theirs}: tensor {ours!r} {fault}")
        missing = {tensor.name for tensor in configs[step.model_name].input if not tensor.optional} - set(
            step.input_map
        )
        if missing:
            raise _wiring(config.name, f"{step.model_name} needs {', '.join(sorted(missing))}")
    if steps:
        for tensor in config.output:
            if types.get(tensor.name) != tensor.data_type:
                raise _wiring(config.name, f"no step makes output {tensor.name!r} with its type")


def _tensor_type(ensemble: str, config: Any, side: str, name: str) -> int:
    for tensor in getattr(config, side):
        if tensor.name == name:
            return int(tensor.data_type)
    raise _wiring(ensemble, f"{config.name} has no {side} {name!r}")


def _wiring(ensemble: str, fault: str) -> RepositoryError:
    return RepositoryError(
        f"{ensemble}/config.pbtxt: {fault}", hint="the engine model's template and the full layout do not fit together"
    )


# On disk.


def _versions_directory(root: Path) -> Path:
    return root.parent / f".{root.name}.versions"


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[str]:
    """Let one writer at a time read, extend and replace a repository; where locks do not work, the last one wins.

    Yields the name of this boot of this machine when the lock excludes all other writers of this boot, else nothing.
    """
    versions = _versions_directory(root)
    if versions.is_symlink():
        raise RepositoryError(
            f"{versions} is a symbolic link to {versions.readlink()}, and what is there is not trtbuild's to remove",
            hint=f"find out who made it; then: rm {versions}, or pass another --repository",
        )
    versions.mkdir(exist_ok=True)
    path = versions / ".lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield _boot() if _excludes(path) else ""
    finally:
        os.close(lock)


def _excludes(path: Path) -> bool:
    """Say whether the lock that is held on ``path`` keeps others out: some file systems grant every lock, or none."""
    second = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(second)
    return False


def _boot() -> str:
    """Return 12 hex digits that all processes of this machine share until it is started again; empty if unknown."""
    with contextlib.suppress(OSError):
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()  # Source: random(4)
        return name.replace("-", "")[:12]
    return ""


def _scratch(versions: Path, kind: str, boot: str) -> Path:
    """Return a new name for what is not finished; with the boot whose writers the lock keeps apart, if it does."""
    return versions / f".{kind}-{f'{boot}-' if boot else ''}{uuid.uuid4().hex}"


def _sweep(versions: Path, boot: str) -> None:
    """Remove what writers left that died before they could.

    Whoever wrote during this boot under the lock that this process now holds is dead. Of all others (another node,
    an earlier boot, a file system without locks) only the age is known, by the clock that stamps the files.
    """
    found = [(path, match) for path in versions.iterdir() if (match := _LEFTOVER.fullmatch(path.name))]
    if not found:
        return
    os.utime(versions / ".lock")
    now = (versions / ".lock").stat().st_mtime
    for path, match in found:
        with contextlib.suppress(FileNotFoundError):
            if (boot and match["boot"] == boot) or now - path.lstat().st_mtime > LEFTOVER_AGE_S:
                # Renamed first: a writer that lives after all fails, and never finishes what is half removed.
                _remove(path.rename(versions / f".damaged-{uuid.uuid4().hex}"))
                log.get().debug("repository_swept", f"removed {path}, which a dead writer left")


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_foreign(root: Path) -> None:
    """Refuse to replace what this module did not write."""
    if root.is_symlink():
        if _versions_directory(root).resolve() in root.resolve().parents:
            return
        raise RepositoryError(
            f"{root} is a symbolic link to {root.readlink()}, which is no repository of trtbuild",
            hint="remove the link, or pass another --repository",
        )
    if not root.exists():
        return
    if root.is_dir() and not any(root.iterdir()) and not root.is_mount():
        root.rmdir()
        return
    what = "is a mount point" if root.is_mount() else "exists and was not written by trtbuild"
    raise RepositoryError(
        f"{root} {what}; it cannot be replaced at once", hint=f"pass --repository {root / 'repository'}"
    )


def _read_current(root: Path) -> tuple[Record, Files]:
    """Return the record and the files of the current version, both empty when there is none."""
    if not root.exists():
        return {}, {}
    try:
        record = untrusted.read(root / _RECORD, _RECORD_LIMIT_BYTES)["served"]
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise RepositoryError(
            f"{root / _RECORD} is damaged: {error!r}", hint=f"remove {root} and write its models again"
        ) from error
    base = root.resolve()
    files = {path.relative_to(base).as_posix(): path.read_bytes() for path in _files_below(base)}
    for path in base.rglob("*"):
        if path.is_dir() and path.name not in _LEFTOVERS and not any(path.iterdir()):
            files[path.relative_to(base).as_posix() + "/"] = b""
    return record, files


def _digest(files: Files) -> str:
    digest = hashlib.sha256()
    for path, data in files.items():
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def _swap_in(root: Path, record: Record, files: Files, boot: str) -> Path:
    """Bring ``files`` to disk as a version and make ``root`` point to it."""
    versions = _versions_directory(root)
    version = versions / _digest(files)
    if not _holds(version, files):
        staging = _scratch(versions, "staging", boot)
        try:
            _write(staging, files)
            if version.exists():  # somebody changed it; what is there cannot be trusted
                version.rename(versions / f".damaged-{uuid.uuid4().hex}")
            try:
                staging.rename(version)
            except OSError:
                if not _holds(version, files):  # where locks do not work, another writer of the same was faster
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    target = Path(versions.name) / version.name
    if not root.is_symlink() or root.readlink() != target:
        link = _scratch(versions, "link", boot)
        link.symlink_to(target)
        link.replace(root)
        log.get().debug("repository_swap", f"{root} now is version {version.name}", models=sorted(record))
    os.utime(version)
    _remove_old(versions, version)
    return root


def _holds(version: Path, files: Files) -> bool:
    """Return whether a version on disk has exactly these contents, apart from what Python leaves behind."""
    if not version.is_dir():
        return False
    wanted = {path for path in files if not path.endswith("/")}
    present = {path.relative_to(version).as_posix() for path in _files_below(version)}
    return present == wanted and all((version / path).read_bytes() == files[path] for path in wanted)


def _write(directory: Path, files: Files) -> None:
    directory.mkdir()
    for path, data in files.items():
        target = directory / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _remove_old(versions: Path, current: Path) -> None:
    """Remove versions that no server can have been started with since the last two writes."""
    others = [path for path in versions.iterdir() if path != current]
    named = [(_written(path), path) for path in others if _VERSION.fullmatch(path.name)]
    old = [path for _, path in sorted(named, reverse=True)[KEPT_VERSIONS - 1 :]]
    for path in [*old, *(path for path in others if path.name.startswith(".damaged-"))]:
        _remove(path)


def _written(path: Path) -> float:
    with contextlib.suppress(OSError):  # where locks do not work, another writer may remove it meanwhile
        return path.lstat().st_mtime
    return 0.0
