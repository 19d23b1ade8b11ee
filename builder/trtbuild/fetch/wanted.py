"""Which files make a complete snapshot, as far as that is known: the index of sharded weights names the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trtbuild.errors import FetchError
from trtbuild.fetch.cache import RepoCache
from trtbuild.fetch.hub import Resolved
from trtbuild.fetch.metadata import read_index
from trtbuild.fetch.select import TOKENIZER_FILES, Selection, select, shards
from trtbuild.model.remote import RemoteFile


class Wanted:
    """Which files make a complete snapshot, as far as that is known."""

    def __init__(self, repo: RepoCache, resolved: Resolved, *, allow_pickle: bool, allow_code: bool) -> None:
        self.repo, self.resolved = repo, resolved
        self._allow_pickle, self._allow_code = allow_pickle, allow_code

    def is_complete(self) -> bool:
        """Say, without network, whether everything is there."""
        files = self.resolved.files or self.repo.read_tree(self.resolved.commit)
        is_guessed = files is None
        if files is None:  # a cache of older tools, which kept no listing: believe the model's own index
            files = self.repo.files_in_snapshot(self.resolved.commit)
        before = self.resolved
        self.resolved = replace(before, files=files)
        try:
            is_complete = self._are_there(self.first()) and self._are_there(self.all())
            if is_guessed:
                is_complete = is_complete and any(file.path in TOKENIZER_FILES for file in files)
        except FetchError:
            if not is_guessed:
                raise
            is_complete = False
        if not is_complete:
            self.resolved = before
        return is_complete

    def has_index(self) -> bool:
        """Say whether the names of the weights are in a file that has to be read first."""
        return self._select().index is not None

    def has_names(self) -> bool:
        """Say whether the names of all files are known: the index is there, or there is none."""
        index = self._select().index
        return index is None or all(self.repo.has(self.resolved.commit, file) for file in self._named((index,)))

    def first(self) -> list[RemoteFile]:
        """Return configuration, tokenizer and index."""
        return self._named(self._select().first)

    def all(self) -> list[RemoteFile]:
        """Return everything; the index must be there."""
        selection = self._select()
        weights = selection.weights
        if selection.index:
            text = read_index(self.repo.pointer(self.resolved.commit, selection.index))
            weights = shards(text, self._names(), index=selection.index, model_id=self.resolved.model_id)
        return self._named((*selection.first, *weights))

    def _select(self) -> Selection:
        return select(
            self._names(),
            model_id=self.resolved.model_id,
            allow_pickle=self._allow_pickle,
            allow_code=self._allow_code,
        )

    def _names(self) -> list[str]:
        return [file.path for file in self.resolved.files or ()]

    def _named(self, names: Sequence[str]) -> list[RemoteFile]:
        by_name = {file.path: file for file in self.resolved.files or ()}
        return [by_name[name] for name in names]

    def _are_there(self, files: Sequence[RemoteFile]) -> bool:
        return all(self.repo.has(self.resolved.commit, file) for file in files)
