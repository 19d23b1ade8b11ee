"""A complete snapshot of a model in the Hugging Face cache: what is missing is downloaded, the rest is left alone.

Decides what "complete" means and in which order things are brought: the index of sharded weights first, because it
says which files are weights.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.console import log
from trtbuild.fetch.cache import BlobLock, RepoCache
from trtbuild.fetch.hub import Hub, Resolved
from trtbuild.fetch.limits import Tuning
from trtbuild.fetch.metadata import check_metadata, check_sizes, load_config
from trtbuild.fetch.partial import DATA_SUFFIX, is_leased, recoverable_bytes, remove_leftovers
from trtbuild.fetch.resolve import list_files, offline_error
from trtbuild.fetch.select import CONFIG_FILES
from trtbuild.fetch.wanted import Wanted
from trtbuild.model.remote import RemoteFile

if TYPE_CHECKING:
    from trtbuild.fetch.http import Client


ABANDONED_S = 24 * 3600.0


def snapshot(
    resolved: Resolved,
    *,
    cache: Path,
    hub: Hub,
    allow_pickle: bool = False,
    allow_code: bool = False,
    tuning: Tuning | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Return the directory of a complete snapshot, downloading what is missing.

    Every file that is downloaded is checked against the hub's record (sha256 for large files, git's id for small
    ones); files that the cache has already are taken by name and length. No network is used when nothing is missing.

    Args:
        resolved: What :func:`resolve` returned.
        cache: Hugging Face cache (``HF_HUB_CACHE``).
        hub: Where to download from.
        allow_pickle: Take pickled weights when there are no safetensors.
        allow_code: Also take the model's own Python files.
        tuning: Parallelism, intervals and patience.
        check: Looks at the snapshot before its weights are downloaded; raises what it minds.

    Raises:
        FetchError: Gated, not found, no network, wrong content, full disk, ...
    """
    repo = RepoCache(cache, resolved.model_id)
    wanted = Wanted(repo, resolved, allow_pickle=allow_pickle, allow_code=allow_code)
    check = check or _no_check
    if wanted.is_complete():
        check(repo.snapshot(resolved.commit))
    else:
        if hub.is_offline:
            raise offline_error(resolved.model_id, resolved.revision, repo.root)
        with _client(hub, tuning) as client:
            wanted.resolved = list_files(resolved, client=client, cache=repo.root)
            check_sizes(wanted.first(), resolved.model_id)
            if wanted.has_index() or check is not _no_check:
                _bring(client, repo, wanted.resolved, wanted.first())
            check(repo.snapshot(resolved.commit))
            _bring(client, repo, wanted.resolved, wanted.all())
        remove_abandoned(repo)
        repo.remove_temporaries(before=time.time() - ABANDONED_S)
    for file in wanted.all():  # a process killed in its very last step leaves a journal beside the finished blob
        remove_leftovers(repo.blob(file))
    directory = repo.snapshot(resolved.commit)
    check_metadata(directory, [file.path for file in wanted.first()])
    return directory


def _no_check(directory: Path) -> None:
    """Mind nothing."""


def missing_bytes(
    resolved: Resolved, *, cache: Path, allow_pickle: bool = False, allow_code: bool = False
) -> int | None:
    """Return how many bytes :func:`snapshot` would write, from what is really on the disk; no network is used.

    Returns:
        0 when the snapshot is complete, None when nobody knows yet which files it has.

    Raises:
        FetchError: The model has no files that may be used.
    """
    repo = RepoCache(cache, resolved.model_id)
    wanted = Wanted(repo, resolved, allow_pickle=allow_pickle, allow_code=allow_code)
    if wanted.is_complete():
        return 0
    wanted.resolved = replace(resolved, files=resolved.files or repo.read_tree(resolved.commit))
    if wanted.resolved.files is None or not wanted.has_names():
        return None
    missing = {file.etag: file for file in wanted.all() if not repo.has(resolved.commit, file)}
    return sum(
        file.size - recoverable_bytes(repo.blob(file), file) for file in missing.values() if not repo.has_blob(file)
    )


def read_config(resolved: Resolved, *, cache: Path, hub: Hub, tuning: Tuning | None = None) -> dict[str, Any]:
    """Return a model's ``config.json``, fetching nothing but configuration.

    The settings of an NVIDIA ModelOpt checkpoint (``hf_quant_config.json``) are added as ``quantization_config``.

    Raises:
        FetchError: As for :func:`snapshot`, or there is no readable ``config.json``.
    """
    repo = RepoCache(cache, resolved.model_id)
    directory = repo.snapshot(resolved.commit)
    if resolved.files is None and (directory / "config.json").is_file():
        return load_config(directory)
    if hub.is_offline and not (directory / "config.json").is_file():
        raise offline_error(resolved.model_id, resolved.revision, repo.root)
    files = [file for file in resolved.files or () if file.path in CONFIG_FILES]
    if not files or not all(repo.has(resolved.commit, file) for file in files):
        with _client(hub, tuning) as client:
            listed = list_files(resolved, client=client, cache=repo.root)
            files = [file for file in listed.files or () if file.path in CONFIG_FILES]
            _bring(client, repo, listed, files)
    return load_config(directory)


def remove_abandoned(repo: RepoCache) -> None:
    """Remove unfinished downloads that nobody touched for :data:`ABANDONED_S` (the model has changed on the hub).

    Only under their lock and by the clock that stamps the files: this machine's may have jumped, and a download that
    another process is at must not lose what it writes to.
    """
    for path in repo.blobs.glob(f"*{DATA_SUFFIX}"):
        blob = path.with_name(path.name.removesuffix(DATA_SUFFIX))
        with contextlib.suppress(OSError):
            lock = BlobLock(repo.locks / f"{blob.name}.lock")
            if not lock.acquire():
                continue
            try:
                is_old = lock.now() - path.stat().st_mtime > ABANDONED_S
                if is_old and not is_leased(blob, now=lock.now(), is_lock_trusted=lock.is_trusted):
                    remove_leftovers(blob)
            finally:
                lock.release()


def _bring(client: Client, repo: RepoCache, resolved: Resolved, files: Sequence[RemoteFile]) -> None:
    """Download those of ``files`` that are missing."""
    missing = [file for file in files if not repo.has(resolved.commit, file)]
    if not missing:
        return
    from trtbuild.fetch.download import Transfer, check_disk

    repo.create()
    check_disk(repo, [file for file in missing if not repo.has_blob(file)])
    total = sum(file.size for file in missing)
    message = f"downloading {resolved.model_id}"
    count = "1 file" if len(missing) == 1 else f"{len(missing)} files"
    size, commit = log.format_bytes(total), resolved.commit[:12]
    log.get().info(
        "download-start",
        f"{message}: {count}, {size}, commit {commit} from {client.hub.host}",
        model_id=resolved.model_id,
        commit=resolved.commit,
        files=len(missing),
        total_bytes=total,
    )
    with log.get().progress("download", message, total=total) as progress:
        Transfer(client, repo, resolved, progress).run(missing)


@contextlib.contextmanager
def _client(hub: Hub, tuning: Tuning | None) -> Iterator[Client]:
    from trtbuild.fetch import http

    client = http.Client(hub, tuning or Tuning())
    try:
        yield client
    finally:
        client.close()
