"""SmolLM2 as converted, built and served here says what transformers says, to the character.

The reference was recorded by ``tools/record_smollm2.py``; neither torch nor transformers is needed here.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.smollm2 import CHATS, NEW_TOKENS, PROMPTS, TEXTS
from tests.integration.server.conftest import Served
from tests.smollm2 import NAME
from trtbuild import catalog

pytestmark = pytest.mark.integration
REFERENCE = json.loads((Path(__file__).parents[2] / "data/smollm2/reference.json").read_text(encoding="utf-8"))


def check(answer: tuple[int, dict[str, Any]], expected: dict[str, Any]) -> None:
    status, body = answer
    assert status == 200, body
    assert body["text_output"] == expected["text"]
    assert body["prompt_tokens"] == len(expected["ids"])
    assert body["completion_tokens"] == len(expected["tokens"])  # without the end token, as everywhere
    assert body["finish_reason"] == ("stop" if expected["is_finished"] else "length")


def test_the_reference_is_of_these_bytes() -> None:
    model = catalog.find_model(NAME)
    assert model is not None
    assert model.package is not None
    assert REFERENCE["tree"] == model.package.tree
    assert len(REFERENCE["prompts"]) + len(REFERENCE["chats"]) >= 8
    assert len({each["text"] for each in REFERENCE["prompts"] + REFERENCE["chats"]}) == len(PROMPTS) + len(CHATS)


@pytest.mark.parametrize(("prompt", "expected"), [*zip(PROMPTS, REFERENCE["prompts"], strict=True)])
def test_text_is_continued_as_by_transformers(prompt: str, expected: dict[str, Any], smollm2_server: Served) -> None:
    check(smollm2_server.generate(NAME, text_input=prompt, max_tokens=NEW_TOKENS), expected)


@pytest.mark.parametrize(("messages", "expected"), [*zip(CHATS, REFERENCE["chats"], strict=True)])
def test_chats_are_answered_as_by_transformers(
    messages: list[dict[str, str]], expected: dict[str, Any], smollm2_server: Served
) -> None:
    check(smollm2_server.generate(NAME, messages=json.dumps(messages), max_tokens=NEW_TOKENS), expected)


@pytest.fixture(scope="module")
def text_model(smollm2_directory: Path) -> Iterator[Any]:
    """What the front model makes of the directory's files."""
    pytest.importorskip("tokenizers")
    shared = str(Path(__file__).resolve().parents[3] / "model_repo_templates" / "_shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(shared)
        made = importlib.import_module("trtbuild_front.text.model").load_text_model(smollm2_directory)
        yield made
        made.close()


@pytest.mark.parametrize(("messages", "expected"), [*zip(CHATS, REFERENCE["chats"], strict=True)])
def test_chats_are_rendered_as_by_transformers(
    messages: list[dict[str, str]], expected: dict[str, Any], text_model: Any
) -> None:
    assert text_model.render(json.dumps(messages), 8192) == expected["rendered"]
    assert text_model.encode_messages(json.dumps(messages)) == expected["ids"]


@pytest.mark.parametrize(
    ("text", "ids", "left"), [*zip(TEXTS, REFERENCE["texts"]["ids"], REFERENCE["texts"]["left"], strict=True)]
)
def test_odd_texts_have_the_tokens_of_transformers(text: str, ids: list[int], left: str, text_model: Any) -> None:
    assert text_model.encode(text) == ids
    assert text_model.decode(ids) == left
