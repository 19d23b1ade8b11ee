"""Whatever a hub, a bundle or a bucket calls things, nothing leaves its directory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store.store_helpers import FILES, build, fill
from trtbuild.errors import StoreError
from trtbuild.plan import EngineKey
from trtbuild.store import Entry, Store
from trtbuild.store.manifest import Manifest, check_name, make_manifest, parse_manifest, without_secrets

HOSTILE = [
    "..",
    "../..",
    "/etc/passwd",
    "a/../../b",
    ".",
    "",
    "a//b",
    "a/",
    "~",
    "C:\\x",
    "a\x00b",
    "a\nb",
    "a\x9bb",
    "\u202e",
    "é" * 300,
]
hostile_text = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=40), st.lists(st.sampled_from(["..", ".", "", "a", "/"])).map("/".join)
)


@given(model=hostile_text, sku=hostile_text, shape=hostile_text)
def test_an_entry_stays_below_the_engines_directory(model: str, sku: str, shape: str) -> None:
    key = EngineKey(fields={"model": "x"}, model_part=model, sku_part=sku, shape_part=shape)
    store = Store(Path("/nowhere/store"))
    path = store.layout.entry(key)
    parts = path.relative_to(store.layout.engines).parts
    assert len(parts) == 3
    assert all(part not in {"", ".", ".."} and "/" not in part and "\x00" not in part for part in parts)
    assert all(len(part.encode()) <= 255 for part in parts)


@given(name=hostile_text)
def test_a_file_name_is_refused_or_stays_inside(name: str) -> None:
    try:
        accepted = check_name(name)
    except ValueError:
        return
    path = PurePosixPath("/base") / accepted
    assert ".." not in path.parts
    assert path.is_relative_to("/base")
    assert path != PurePosixPath("/base")
    assert str(path) == f"/base/{name}"


@pytest.mark.parametrize(
    "name", [n for n in HOSTILE if n not in {"~", "\u202e"}] + ["manifest.json", "x" * 256, "a/" * 16 + "b"]
)
def test_known_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="file name|store's own"):
        check_name(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a/b", "A/b"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")],
    ids=["case", "nfd", "folded"],
)
def test_names_that_are_one_on_some_file_systems_are_refused(tmp_path: Path, one: str, other: str) -> None:
    store, key = Store(tmp_path / "store"), EngineKey(fields={}, model_part="m", sku_part="s", shape_part="p")
    with pytest.raises(StoreError, match="have one name where"):
        build(store, key, {one: b"1", other: b"2"})
    entry = build(store, key, {one: b"1"})
    twice = Manifest(
        key=key, files=dict.fromkeys((one, other), entry.manifest.files[one]), provenance={}, created_at="now"
    )
    with pytest.raises(ValueError, match="have one name where"):
        parse_manifest(twice.to_bytes())


@settings(max_examples=20)
@given(
    model=st.sampled_from(["..", "../../escape", "/etc", "a\x00b", "a/b", " ", "....//"]),
    revision=hostile_text,
)
def test_hostile_models_are_stored_below_the_root_and_found(model: str, revision: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "store")
        try:
            key = EngineKey(
                fields={"model": model, "revision": revision}, model_part=model, sku_part="..", shape_part="/"
            )
            key.digest  # noqa: B018 - a lone surrogate has no canonical form
        except UnicodeEncodeError:
            return
        try:
            entry = build(store, key)
        except StoreError as error:
            assert "secret" in error.message
            return
        assert isinstance(store.get(key, verify="full"), Entry)
        assert entry.path.resolve().is_relative_to((Path(directory) / "store" / "engines").resolve())
        assert [path.name for path in Path(directory).iterdir()] == ["store"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.text(), json_values, max_size=4), provenance=st.dictionaries(st.text(), json_values))
def test_a_manifest_says_the_same_after_writing_and_reading(fields: dict, provenance: dict) -> None:  # type: ignore[type-arg]
    key = EngineKey(fields=fields, model_part="m", sku_part="s", shape_part="t")
    try:
        manifest = make_manifest(key, {"a": _record()}, provenance, now=0)
    except StoreError:
        return  # something looked like a secret
    again = parse_manifest(manifest.to_bytes())
    assert again.key.digest == key.digest
    assert again.files == manifest.files
    assert again.provenance == without_secrets(provenance)


def _record() -> object:
    return parse_manifest(_manifest().to_bytes()).files["a"]


def _manifest() -> Manifest:
    from trtbuild.store import FileRecord

    key = EngineKey(fields={"n": 1}, model_part="m", sku_part="s", shape_part="t")
    return make_manifest(key, {"a": FileRecord(size=1, sha256="0" * 64)}, {}, now=0)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_manifest(data)


@given(
    change=st.dictionaries(
        st.sampled_from(["schema", "digest", "key", "files", "provenance", "created_at"]), json_values, min_size=1
    )
)
def test_any_other_json_is_a_manifest_or_a_reason(change: dict) -> None:  # type: ignore[type-arg]
    from trtbuild.store.manifest import _seal

    body = json.loads(_manifest().to_bytes())
    body.pop("seal")
    body.update(change)
    try:
        body["seal"] = _seal(body)
        parsed = parse_manifest(json.dumps(body).encode())
    except ValueError:
        return
    assert all(check_name(name) for name in parsed.files)


def test_deeply_nested_json_is_a_reason() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        parse_manifest(b"[" * 200_000)


def test_files_with_plain_unicode_names_are_fine(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    key = EngineKey(fields={"n": 1}, model_part="m", sku_part="s", shape_part="t")
    with store.stage(key) as staging:
        fill(staging.path, {**FILES, "模型/größe.json": b"1"})
        entry = store.publish(key, staging, {})
    assert "模型/größe.json" in entry.manifest.files
    assert store.verify(entry) == ()
