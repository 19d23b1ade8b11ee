"""What stands beside a repository: the request and commit it was made from, and a digest of the state it was left in.

It decides whether a repository has to be written again, and which commit a server takes for a branch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

from trtbuild import untrusted
from trtbuild.console import log
from trtbuild.plan import BuildPlan, canonical_json
from trtbuild.repository.render import TEMPLATES, ServedModel
from trtbuild.repository.write import unwritable, write_repository
from trtbuild.spec import EngineSpec, JsonValue, Spec

RECORD_LIMIT_BYTES = 1 << 16
"""Largest record beside a repository that is read; it holds three hashes and a commit."""


def served_name_of(spec: Spec) -> str:
    """Return the name of the front model: as asked, else the alias, the directory's name or the last part of the id."""
    if spec.repository.served_name:
        return spec.repository.served_name
    directory = Path(spec.engine.model).expanduser()
    last = directory.resolve().name if directory.is_dir() else spec.engine.model.rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-").lower() or "model"


def repository_path(spec: Spec, store_root: Path) -> Path:
    """Return where the repository is written."""
    return spec.repository.repository or store_root / "repositories" / served_name_of(spec)


def provide_repository(spec: Spec, plan: BuildPlan, model: ServedModel, store_root: Path) -> Path:
    """Write the repository that serves ``model``, unless it is there as it would be written; return its path."""
    path, keep_others = repository_path(spec, store_root), spec.repository.add_to_repository
    known = _read_record(path).get("state")
    if known is None or known != repository_state(path, model, keep_others=keep_others):
        write_repository(path, [model], keep_others=keep_others)
    remember_commit(path, spec.engine, plan, repository_state(path, model, keep_others=keep_others))
    log.get().info("repository", f"model repository {path} serves {model.served_name!r}")
    return path


def repository_state(path: Path, model: ServedModel, *, keep_others: bool) -> str:
    """Return a digest of all that decides what a repository holds, and of what is there now.

    Rendering and checking cost as much as everything else of a hit together, so they are left out when this is what it
    was after the last writing: the same request, the same templates and code, and a current version whose every file
    has the size and times it was written with. Anything else, also an edit by hand, is another state.
    """
    served = {**asdict(model), "tokenizer_dir": str(model.tokenizer_dir), "keep_others": keep_others}
    served["tokenizer"] = sorted(path.name for path in model.tokenizer_dir.iterdir())
    digest = hashlib.sha256(canonical_json(served).encode())
    template = TEMPLATES / model.engine_template.directory
    for part in (Path(__file__).parent, TEMPLATES, template, path):
        digest.update("\n".join(_file_times(part.resolve())).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_times(top: Path) -> list[str]:
    """Return a line per file of a tree with what a write to it changes; none for what Python leaves behind."""
    if not top.is_dir():
        paths = [str(top)] if top.exists() else []
    else:
        paths = [
            f"{directory}/{name}"
            for directory, _, names in os.walk(top)
            for name in names
            if "__pycache__" not in directory
        ]
    lines = []
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # another pod's writer removes old versions meanwhile
            stat = os.lstat(path)
            lines.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
    return lines


def pin_to_repository(spec: Spec, store_root: Path) -> Spec:
    """Return ``spec`` with the revision pinned to the commit that its repository was written from, if it was.

    A pod's init container and its server must not resolve a moving branch twice: the server takes what init built.
    """
    document = _read_record(repository_path(spec, store_root))
    commit = str(document.get("revision"))
    if document.get("spec") != _spec_digest(spec.engine) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        return spec
    if commit != spec.engine.revision:
        log.get().info(
            "pinned", f"revision {spec.engine.revision} is {commit[:12]}, from which the repository was made"
        )
    return replace(spec, engine=replace(spec.engine, revision=commit))


def remember_commit(repository: Path, spec: EngineSpec, plan: BuildPlan, state: str | None = None) -> None:
    """Write beside the repository which commit and request it was made from.

    See :func:`pin_to_repository` and :func:`repository_state`. A record that was cut short by a crash is no record,
    which costs a question to the hub and a rendering, so it is written in place and leaves nothing behind.
    """
    record = _record_path(repository)
    known = {"spec": _spec_digest(spec), "revision": plan.model.revision, "key": plan.key.digest, "state": state}
    if _read_record(repository) == known:
        return
    text = (json.dumps(known) + "\n").encode()
    try:
        file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(file, "wb") as stream:  # noqa: PTH123 - a descriptor, opened through no link of somebody else's
            stream.write(text)
    except OSError as error:
        raise unwritable(str(record), record.parent, error, needed_bytes=len(text)) from error


def _read_record(repository: Path) -> dict[str, JsonValue]:
    """Return what :func:`remember_commit` wrote, or nothing."""
    try:
        document = untrusted.read(_record_path(repository), RECORD_LIMIT_BYTES)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _record_path(repository: Path) -> Path:
    return repository.with_name(f".{repository.name}.trtbuild.json")


def _spec_digest(spec: EngineSpec) -> str:
    return hashlib.sha256(canonical_json(asdict(spec)).encode()).hexdigest()
