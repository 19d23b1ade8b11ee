"""Models that could not be served are refused before they are built, with the reason."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from trtbuild.errors import FetchError
from trtbuild.fetch.tokenizer import check_tokenizer, check_tokenizer_names, template_fault

GOOD = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
BAD: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "is empty"),
    ("blank", " \n", "is empty"),
    ("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n", "git-lfs pointer"),
    ("html", "<!DOCTYPE html>", "not JSON"),
    ("bytes", b"\xff\x00\x01", "not JSON"),
    ("cut", json.dumps(GOOD)[:-5], "not JSON"),
    ("list", "[]", "no model with a vocabulary"),
    ("object", "{}", "no model with a vocabulary"),
    ("no-vocabulary", '{"model": {"type": "BPE"}}', "no model with a vocabulary"),
    ("deep", "[" * 100_000, "nested too deeply|not JSON"),
]
UNKNOWN = {**GOOD, "pre_tokenizer": {"type": "FancyNew2027"}}


def _refusal(directory: Path) -> FetchError:
    with pytest.raises(FetchError) as refused:
        check_tokenizer(directory)
    return refused.value


def _hide_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize("has_library", [True, False], ids=["library", "shape"])
@pytest.mark.parametrize(("content", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_tokenizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, reason: str, has_library: bool
) -> None:
    if has_library:
        pytest.importorskip("tokenizers")
    else:
        _hide_library(monkeypatch)
    (tmp_path / "tokenizer.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    error = _refusal(tmp_path)
    assert error.message.startswith(str(tmp_path / "tokenizer.json"))
    assert any(word in error.message for word in reason.split("|"))
    assert error.hint


def test_an_unknown_component_is_named_with_the_library_s_version(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(UNKNOWN))
    error = _refusal(tmp_path)
    assert f"(tokenizers {tokenizers.__version__})" in error.message
    assert "save_pretrained" in error.hint


def test_a_tokenizer_is_accepted_with_and_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(GOOD))
    check_tokenizer(tmp_path)
    _hide_library(monkeypatch)
    check_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["vocab.json", "merges.txt"], "no tokenizer.json, which the server needs; it has vocab.j", "save_pretrained"),
        (["tokenizer.model"], "it has tokenizer.model", "save_pretrained"),
        (["qwen.tiktoken"], "it has qwen.tiktoken", "save_pretrained"),
        (["config.json"], "nor a tokenizer of another kind", "choose a repository"),
    ],
)  # fmt: skip
def test_without_tokenizer_json_the_listing_is_enough(names: list[str], message: str, hint: str) -> None:
    with pytest.raises(FetchError) as refused:
        check_tokenizer_names("owner/name", names)
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        pytest.param("{{ messages[0].content }}", "", id="good"),
        pytest.param("{% generation %}x{% endgeneration %}", "", id="generation"),
        pytest.param("{% nothing %}", "Encountered unknown tag 'nothing'", id="unknown-tag"),
        pytest.param("{{ 1 | nothing }}", "No filter named 'nothing'", id="unknown-filter"),
        pytest.param("{{ 'a' * 10 ** 12 }}", "", id="constant-that-fails-when-rendered"),
        pytest.param("x" * (2 << 20), "expected at most 1048576", id="huge"),
        pytest.param(None, "", id="none"),
    ],
)
@pytest.mark.parametrize("is_file", [True, False], ids=["file", "config"])
def test_templates_are_compiled_where_they_cannot_do_harm(
    tmp_path: Path, template: str | None, fault: str, is_file: bool
) -> None:
    if template is not None and is_file:
        (tmp_path / "chat_template.jinja").write_text(template)
    else:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    found = template_fault(tmp_path)
    assert fault in found if fault else found == "" or "memory" in found


def test_a_template_that_is_never_compiled_ends_by_its_processor_time(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ 10 ** (10 ** 9) }}")
    assert "too long or too much memory" in template_fault(tmp_path)


def test_the_check_needs_no_particular_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert template_fault(Path()) == ""


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ raise_exception('ask a tool first') }}", "ask a tool first"),
        ("{{ messages[0]['content'].nothing() }}", "refused them"),
        ("{{ bos_token + messages[0]['content'] }}", ""),
    ],
)
def test_one_message_is_rendered_before_a_build(tmp_path: Path, template: str, fault: str) -> None:
    config = {"chat_template": template, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = template_fault(tmp_path)
    assert fault in found if fault else not found
