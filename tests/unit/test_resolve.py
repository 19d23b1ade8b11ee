"""What a model's name stands for: which facts hold for which revision, and the listing that is kept. No network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.odd_models.shapes import write_shape
from tests.data.odd_tokenizers.variants import tokenizer_json
from trtbuild import catalog, fetch, resolve
from trtbuild.errors import FetchError
from trtbuild.fetch import Hub
from trtbuild.fetch.cache import RepoCache
from trtbuild.model.remote import RemoteFile
from trtbuild.resolve import ModelSource, check_files, missing_bytes, resolve_model
from trtbuild.spec import EngineSpec

MAIN, OTHER = "a" * 40, "b" * 40
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
    "max_position_embeddings": 128, "torch_dtype": "float32", "tie_word_embeddings": True,
}  # fmt: skip
FILES = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}", "model.safetensors": b"w"}


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A cache that knows ``main`` and another branch of a model of the catalog, and no network."""
    repo = RepoCache(tmp_path / "hub", MODEL)
    repo.create()
    for revision, commit in (("main", MAIN), ("smaller", OTHER)):
        repo.write_ref(revision, commit)
        write(
            repo,
            commit,
            {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}", "model.safetensors": b"w"},
        )
    return ModelSource(
        hub=Hub(endpoint="http://127.0.0.1:9", is_offline=True),
        cache=tmp_path / "hub",
        memo=tmp_path / "memo",
        packaged=tmp_path / "models",
    )


def write(repo: RepoCache, commit: str, contents: dict[str, bytes]) -> None:
    files = [
        RemoteFile(path=name, size=len(data), oid=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
        for name, data in contents.items()
    ]
    repo.write_tree(commit, files)
    for file in files:
        repo.blob(file).write_bytes(contents[file.path])
        repo.link(commit, file)


@pytest.mark.parametrize(
    ("revision", "commit", "is_catalogs"),
    [
        pytest.param("main", MAIN, True, id="main"),
        pytest.param(MAIN, MAIN, True, id="the-commit-of-main"),
        pytest.param("smaller", OTHER, False, id="another-branch"),
        pytest.param(OTHER, OTHER, False, id="another-commit"),
    ],
)
@pytest.mark.parametrize("name", [MODEL, "qwen2.5-0.5b-instruct"])
def test_facts_of_the_catalog_hold_for_its_own_revision_only(
    source: ModelSource, name: str, revision: str, commit: str, is_catalogs: bool
) -> None:
    known = catalog.find_model(name)
    assert known is not None
    assert known.hidden_size != CONFIG["hidden_size"]
    model = resolve_model(EngineSpec(model=name, revision=revision), source)
    assert (model.model_id, model.revision) == (MODEL, commit)
    assert model.info.hidden_size == (known.hidden_size if is_catalogs else CONFIG["hidden_size"])


def test_the_listing_is_kept_and_a_model_is_resolved_once(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EngineSpec(model=MODEL, revision="smaller")
    model = resolve_model(spec, source)
    assert model.files is not None
    assert {file.path for file in model.files} == {"config.json", "tokenizer.json", "model.safetensors"}
    monkeypatch.setattr(fetch, "resolve", lambda *_, **__: pytest.fail("it was resolved again"))
    monkeypatch.setattr(RepoCache, "read_tree", lambda *_: pytest.fail("its files were listed again"))
    assert missing_bytes(model, spec, source) == 0
    check_files(model, spec)


def test_a_listing_without_a_tokenizer_is_refused_by_the_listing(source: ModelSource) -> None:
    write(
        RepoCache(source.cache, MODEL), OTHER, {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"w"}
    )
    spec = EngineSpec(model=MODEL, revision="smaller")
    with pytest.raises(FetchError, match=r"has no tokenizer\.json"):
        check_files(resolve_model(spec, source), spec)


def test_the_listing_is_no_part_of_what_a_model_is(source: ModelSource) -> None:
    model = resolve_model(EngineSpec(model=MODEL, revision="smaller"), source)
    assert replace(model, files=None) == model
    assert "RemoteFile" not in repr(model)


def test_weights_are_resolved_once_for_a_build(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    real = resolve.resolve_weights
    monkeypatch.setattr(resolve, "resolve_weights", lambda path, *a, **k: seen.append(path) or real(path, *a, **k))
    monkeypatch.setattr(resolve.fetch, "template_fault", lambda _: "")
    directory = source.memo.parent / "named"
    write_shape("single beside a whole other set", directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    spec = EngineSpec(model=str(directory))
    model = resolve_model(spec, source)
    found = resolve.fetch_model(model, spec, source, source.memo.parent)
    assert seen == [directory]
    assert found != directory, "the other set is left out"
    assert [path.name for path in found.glob("*.safetensors")] == ["model.safetensors"]


def test_the_format_of_safetensors_is_read_in_one_file() -> None:
    package = Path(catalog.__file__).parents[1]
    writer = package / "packaged" / "convert.py"
    readers = [path for path in package.rglob("*.py") if "data_offsets" in path.read_text() and path != writer]
    assert readers == [package / "model" / "headers.py"]


def test_a_directory_of_pickles_is_known_as_such(source: ModelSource) -> None:
    directory = source.memo.parent / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "pytorch_model.bin").write_bytes(b"w")
    assert not resolve_model(EngineSpec(model=str(directory)), source).info.safetensors
    (directory / "model.safetensors").write_bytes(b"w")
    assert resolve_model(EngineSpec(model=str(directory)), source).info.safetensors
