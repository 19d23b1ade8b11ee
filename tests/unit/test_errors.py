"""Every error class has an exit code of its own, and every code is documented."""

from __future__ import annotations

from pathlib import Path

from trtbuild import errors
from trtbuild.errors import EXIT_CODE_MEANINGS, TrtBuildError


def _subclasses(cls: type[TrtBuildError]) -> list[type[TrtBuildError]]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]


def test_exit_codes_are_unique_and_documented() -> None:
    classes = [c for c in _subclasses(TrtBuildError) if c.__module__ == errors.__name__]
    codes = [c.exit_code for c in classes]
    assert len(classes) >= 8
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) <= set(EXIT_CODE_MEANINGS)
    assert len({c.stage for c in classes}) == len(classes)


def test_no_exit_code_is_explained_that_nothing_returns(project_root: Path) -> None:
    used = {c.exit_code for c in _subclasses(TrtBuildError)} | {0, 1, 130, 143}
    assert used == set(EXIT_CODE_MEANINGS)
