"""The front model's package lies in the templates, not in an installed package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("numpy")
pytest.importorskip("tokenizers")

SHARED = Path(__file__).resolve().parents[3] / "model_repo_templates" / "_shared"
if str(SHARED) not in sys.path:
    sys.path.insert(0, str(SHARED))

from tokenizers import Tokenizer  # noqa: E402

from tests.unit.front import kinds  # noqa: E402


@pytest.fixture(scope="session", params=sorted(kinds.KINDS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """A small tokenizer of every kind of decoder that is decoded incrementally."""
    return kinds.KINDS[request.param]()


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a byte-level tokenizer with a chat template and two end ids."""
    return kinds.write_directory(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make_tokenizer_dir(tmp_path: Path) -> Callable[..., Path]:
    return lambda **files: kinds.write_directory(tmp_path, **files)
