from __future__ import annotations

from tests.unit.store.store_helpers import python
from trtbuild import store
from trtbuild.process import run


def test_every_public_name_is_there() -> None:
    assert [name for name in store.__all__ if getattr(store, name, None) is None] == []
    assert not hasattr(store, "no_such_name")


def test_a_hit_imports_neither_the_shared_tier_nor_the_rest() -> None:
    heavy = ("trtbuild.store.", "obstore", "tarfile", "huggingface_hub", "concurrent.futures")
    code = f"import trtbuild.store; print(*sorted(m for m in sys.modules if m.startswith({heavy})))"
    done = run(python(code))
    assert done.exit_code == 0, done.tail
    loaded = set(done.tail[-1].split())
    assert "trtbuild.store.manifest" in loaded
    assert {name.rpartition(".")[0] for name in loaded} == {"trtbuild.store"}
    assert not loaded & {f"trtbuild.store.{name}" for name in store._LAZY.values()}
