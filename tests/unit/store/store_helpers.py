"""Keys and small engines for the store's tests."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtbuild.plan import EngineKey
from trtbuild.process import Command
from trtbuild.store import Entry, Store
from trtbuild.store.entries import Miss

REPOSITORY = Path(__file__).parents[3]
FILES = {"config.json": b"{}", "rank0.engine": b"engine" * 100, "tokenizer/tokenizer.json": b"{'a': 1}"}


def make_key(n: int = 0, *, model: str = "acme/tiny", sku: str = "NVIDIA-L4", **fields: Any) -> EngineKey:
    """Return the key of an imaginary build number ``n``."""
    every: dict[str, Any] = {"model": model, "n": n, "versions": {"tensorrt": "10.9.0.34"}, "gpu": sku, **fields}
    return EngineKey(fields=every, model_part=model, sku_part=sku, shape_part="tp1-pp1-float16")


def fill(directory: Path, files: Mapping[str, bytes] = FILES) -> None:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def build(store: Store, key: EngineKey, files: Mapping[str, bytes] = FILES, **provenance: Any) -> Entry:
    """Build and publish as the pipeline does."""
    with store.lock(key), store.stage(key) as staging:
        fill(staging.path, files)
        return store.publish(key, staging, provenance)


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file below ``directory`` except the manifest."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def python(code: str, *args: object) -> Command:
    """Return the command that runs ``code`` with this interpreter and the tests' helpers importable."""
    head = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    return Command(argv=(sys.executable, "-c", head + textwrap.dedent(code), *(str(arg) for arg in args)))


def hit(store: Store, key: object, **kwargs: object) -> Entry:
    found = store.get(key, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Entry), found
    return found


def miss(store: Store, key: object, **kwargs: object) -> Miss:
    found = store.get(key, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Miss), found
    return found
