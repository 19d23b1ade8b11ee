"""From a model's name and revision to an exact commit, and to the list of its files.

Decides when the network is needed: not for a commit, not offline, and only once for a branch. When the hub cannot be
reached, what the cache knows is used, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trtbuild.console import log
from trtbuild.errors import FetchError
from trtbuild.fetch.cache import RepoCache
from trtbuild.fetch.hub import Hub, Resolved, check_model_id, check_revision, is_commit
from trtbuild.model.remote import RemoteFile

if TYPE_CHECKING:
    from trtbuild.fetch.http import Client
    from trtbuild.fetch.limits import Tuning

_MAX_PAGES = 1000
_NOT_A_HUB = "check HF_ENDPOINT: it does not answer like a Hugging Face hub"


def resolve(model_id: str, revision: str, *, hub: Hub, cache: Path, tuning: Tuning | None = None) -> Resolved:
    """Return the commit that a branch, tag or commit name stands for.

    A full commit id is taken as it is, without network. Files are listed only as far as the cache knows them.

    Raises:
        FetchError: Not found, no access, no network and nothing cached; each with its own message and hint.
    """
    check_model_id(model_id)
    check_revision(revision)
    cached = find_cached(model_id, revision, cache)
    if cached is not None and (hub.is_offline or is_commit(revision)):
        return cached
    if hub.is_offline:
        raise offline_error(model_id, revision, cache)
    from trtbuild.fetch.http import Client
    from trtbuild.fetch.limits import Tuning as HttpTuning
    from trtbuild.fetch.refusals import UnreachableError

    client = Client(hub, tuning or HttpTuning())
    try:
        commit = _ask_commit(client, model_id, revision)
    except UnreachableError as error:
        if cached is None:
            raise
        log.get().warning(
            "hub-unreachable",
            f"{error.message}; using commit {cached.commit[:12]}, which {revision!r} was when it was last downloaded",
            commit=cached.commit,
        )
        return cached
    finally:
        client.close()
    repo = RepoCache(cache, model_id)
    repo.write_ref(revision, commit)
    return Resolved(model_id=model_id, revision=revision, commit=commit, files=repo.read_tree(commit))


def find_cached(model_id: str, revision: str, cache: Path) -> Resolved | None:
    """Return what is known of a revision without network, or None.

    A commit stands for itself; a branch or tag for the commit it had when a tool last looked it up. Whether the files
    are there is found out by :func:`snapshot`.
    """
    repo = RepoCache(cache, model_id)
    commit = revision if is_commit(revision) else repo.read_ref(revision)
    if commit is None:
        return None
    return Resolved(model_id=model_id, revision=revision, commit=commit, files=repo.read_tree(commit))


def list_files(resolved: Resolved, *, client: Client, cache: Path) -> Resolved:
    """Return ``resolved`` with all files of its commit, from the cache or the hub.

    Raises:
        FetchError: The hub refuses or is not reachable.
    """
    if resolved.files is not None:
        return resolved
    repo = RepoCache(cache, resolved.model_id)
    files = repo.read_tree(resolved.commit)
    if files is None:
        files = _without_copies(_ask_files(client, resolved), resolved, client.hub)
        repo.write_tree(resolved.commit, files)
    return replace(resolved, files=files)


def offline_error(model_id: str, revision: str, cache: Path) -> FetchError:
    """Return the error for something that is not in the cache while the network may not be used."""
    return FetchError(
        f"{model_id} at {revision!r} is not in the cache {cache}, and HF_HUB_OFFLINE forbids downloading it",
        hint=f"unset HF_HUB_OFFLINE, or fill the cache elsewhere: hf download {model_id} --revision {revision}",
    )


def _ask_commit(client: Client, model_id: str, revision: str) -> str:
    from trtbuild.fetch.refusals import Subject

    url = client.hub.url("api", "models", *model_id.split("/"), "revision", revision)
    answer, _ = client.get_json(url, Subject(model_id=model_id, revision=revision))
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not is_commit(commit):
        raise FetchError(f"{client.hub.host} gave no commit for {model_id} at {revision!r}", hint=_NOT_A_HUB)
    return commit


def _ask_files(client: Client, resolved: Resolved) -> Iterator[RemoteFile]:
    from trtbuild.fetch.refusals import Subject

    subject = Subject(model_id=resolved.model_id, revision=resolved.revision)
    model = resolved.model_id.split("/")
    query = "recursive=true"
    for _ in range(_MAX_PAGES):
        url = client.hub.url("api", "models", *model, "tree", resolved.commit)
        answer, headers = client.get_json(f"{url}?{query}", subject)
        if not isinstance(answer, list):
            raise FetchError(f"{client.hub.host} gave no file list for {resolved.model_id}", hint=_NOT_A_HUB)
        for entry in answer:
            if isinstance(entry, dict) and entry.get("type") == "file":
                yield _parse_entry(entry, client.hub)
        query = _next_query(headers.get("Link", ""))
        if not query:
            return
    raise FetchError(f"{client.hub.host} lists files of {resolved.model_id} without end", hint=_NOT_A_HUB)


def _without_copies(listed: Iterator[RemoteFile], resolved: Resolved, hub: Hub) -> tuple[RemoteFile, ...]:
    """Return each file once.

    Raises:
        FetchError: A name is listed with two contents, and none of them is the right one.
    """
    files: dict[str, RemoteFile] = {}
    for file in listed:
        other = files.setdefault(file.path, file)
        if other.etag != file.etag or other.size != file.size:
            raise FetchError(
                f"{hub.host} lists {file.path!r} of {resolved.model_id} twice, with different contents", hint=_NOT_A_HUB
            )
    return tuple(files.values())


def _parse_entry(entry: dict[str, Any], hub: Hub) -> RemoteFile:
    try:
        lfs = entry.get("lfs") or {}
        return RemoteFile(
            path=str(entry["path"]),
            size=int(lfs.get("size", entry["size"])),
            oid=str(entry["oid"]),
            sha256=lfs.get("oid"),
            xet_hash=entry.get("xetHash"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FetchError(f"{hub.host} lists a file without path, size or id: {entry!r}", hint=_NOT_A_HUB) from error


def _next_query(link: str) -> str:
    """Return the query of the ``rel="next"`` address in a Link header, or an empty string.

    Only the query, because mirrors pass the header on as the public hub wrote it, with its address. Source: RFC 8288.
    """
    for part in link.split(","):
        target, _, parameters = part.strip().partition(">")
        if target.startswith("<") and 'rel="next"' in parameters.replace("rel=next", 'rel="next"'):
            return urlsplit(target[1:]).query
    return ""
