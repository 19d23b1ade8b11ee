"""Bundles: out of one store and into another, and nothing else."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.store.store_helpers import FILES, build, contents, make_key
from trtbuild.errors import StoreError
from trtbuild.store import Entry, Miss, Store, export_bundle, import_bundle
from trtbuild.store.manifest import FileRecord, make_manifest

Write = Callable[[tarfile.TarFile], None]


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return build(Store(tmp_path / "a"), make_key(), image="sha256:abc")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "b")


def exported(tmp_path: Path, entry: Entry) -> Path:
    target = tmp_path / "engine.tar"
    assert export_bundle(Store(tmp_path / "a"), entry, target) == target.stat().st_size
    return target


def test_an_engine_travels_whole_with_its_provenance(tmp_path: Path, entry: Entry, store: Store) -> None:
    taken = import_bundle(store, exported(tmp_path, entry))
    assert contents(taken.path) == FILES
    assert taken.manifest == entry.manifest
    assert isinstance(store.get(make_key(), verify="full"), Entry)
    assert import_bundle(store, tmp_path / "engine.tar").path == taken.path


def test_the_same_entry_gives_the_same_bytes(tmp_path: Path, entry: Entry) -> None:
    first = exported(tmp_path, entry).read_bytes()
    assert exported(tmp_path, entry).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_damaged_entry_is_not_exported(tmp_path: Path, entry: Entry) -> None:
    (entry.path / "rank0.engine").chmod(0o644)
    (entry.path / "rank0.engine").write_bytes(b"E" + FILES["rank0.engine"][1:])
    with pytest.raises(StoreError, match=r"rank0\.engine is damaged"):
        exported(tmp_path, entry)
    assert not (tmp_path / "engine.tar").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", **attributes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    tar.addfile(info, io.BytesIO(data))


def write(path: Path, *steps: Write, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for step in steps:
            step(tar)
    return path


def manifest_of(files: dict[str, bytes], **sizes: int) -> bytes:
    import hashlib

    records = {
        name: FileRecord(size=sizes.get(name, len(data)), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
    return make_manifest(make_key(), records, {}, now=0).to_bytes()


ONE = {"rank0.engine": b"engine"}


def _manifest(tar: tarfile.TarFile) -> None:
    add(tar, "manifest.json", manifest_of(ONE))


def _engine(tar: tarfile.TarFile) -> None:
    add(tar, "rank0.engine", b"engine")


HOSTILE: dict[str, tuple[Write, ...]] = {
    "nothing": (),
    "no-manifest": (_engine,),
    "manifest-not-first": (_engine, _manifest),
    "file-missing": (_manifest,),
    "extra-file": (_manifest, _engine, lambda tar: add(tar, "more")),
    "file-twice": (_manifest, _engine, _engine),
    "manifest-twice": (_manifest, _manifest, _engine),
    "parent": (_manifest, lambda tar: add(tar, "../rank0.engine")),
    "deep-parent": (_manifest, lambda tar: add(tar, "a/../../rank0.engine")),
    "absolute": (_manifest, lambda tar: add(tar, "/tmp/rank0.engine")),
    "symlink": (_manifest, lambda tar: add(tar, "rank0.engine", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hardlink": (_manifest, lambda tar: add(tar, "rank0.engine", b"", type=tarfile.LNKTYPE, linkname="manifest.json")),
    "device": (_manifest, lambda tar: add(tar, "rank0.engine", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "pipe": (_manifest, lambda tar: add(tar, "rank0.engine", b"", type=tarfile.FIFOTYPE)),
    "directory": (_manifest, lambda tar: add(tar, "d", b"", type=tarfile.DIRTYPE), _engine),
    "wrong-bytes": (_manifest, lambda tar: add(tar, "rank0.engine", b"enginE")),
    "wrong-size": (_manifest, lambda tar: add(tar, "rank0.engine", b"engine and more")),
    "not-json": (lambda tar: add(tar, "manifest.json", b"{"), _engine),
    "sparse": (
        _manifest,
        lambda tar: add(
            tar,
            "rank0.engine",
            b"",
            pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)},
        ),
    ),
}


@pytest.mark.parametrize("steps", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_not_exactly_a_bundle_is_refused(tmp_path: Path, store: Store, steps: tuple[Write, ...]) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StoreError, match="is not a bundle") as caught:
        import_bundle(store, write(tmp_path / "x.tar", *steps))
    assert caught.value.hint
    assert isinstance(store.get(make_key()), Miss)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in {"b", "x.tar"}) == before
    if store.root.exists():
        assert list(store.layout.staging.iterdir()) == []
        assert not store.layout.engines.exists()


def test_a_valid_bundle_made_by_hand_is_accepted(tmp_path: Path, store: Store) -> None:
    assert contents(import_bundle(store, write(tmp_path / "x.tar", _manifest, _engine)).path) == ONE


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_bundles_are_refused_for_they_may_be_bombs(tmp_path: Path, store: Store, mode: str) -> None:
    with pytest.raises(StoreError, match="is not a bundle"):
        import_bundle(store, write(tmp_path / "x.tar", _manifest, _engine, mode=mode))


def test_absurd_sizes_are_refused_before_anything_is_written(tmp_path: Path, store: Store) -> None:
    huge = write(
        tmp_path / "x.tar", lambda tar: add(tar, "manifest.json", manifest_of(ONE, **{"rank0.engine": 1 << 60}))
    )
    with pytest.raises(StoreError, match="TiB, .* are free"):
        import_bundle(store, huge)
    assert not store.root.exists()


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path, store: Store) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    (tmp_path / "x.tar").write_bytes(header.tobuf(format=tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(StoreError, match="a header claims"):
        import_bundle(store, tmp_path / "x.tar")


def test_a_truncated_bundle_at_any_length_is_refused(tmp_path: Path, entry: Entry, store: Store) -> None:
    whole = exported(tmp_path, entry).read_bytes()
    end = len(whole.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    for length in {0, 1, 511, 512, 513, 1024, end // 2, end - 1, *random.Random(1).sample(range(end), 20)}:
        cut.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="is not a bundle"):
            import_bundle(store, cut)
        assert isinstance(store.get(make_key()), Miss)


def test_any_flipped_bit_gives_the_same_engine_or_a_refusal(tmp_path: Path, entry: Entry) -> None:
    whole = exported(tmp_path, entry).read_bytes()
    bad = tmp_path / "bad.tar"
    refused = 0
    for n, position in enumerate(random.Random(2).sample(range(len(whole.rstrip(b"\0"))), 40)):
        data = bytearray(whole)
        data[position] ^= 1 << (n % 8)
        bad.write_bytes(data)
        store = Store(tmp_path / f"c{n}")
        try:
            taken = import_bundle(store, bad)
        except StoreError:
            refused += 1
            continue
        assert contents(taken.path) == FILES
    assert refused > 20


def test_a_missing_bundle_is_an_error_for_people(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="cannot import an engine"):
        import_bundle(store, tmp_path / "none.tar")
