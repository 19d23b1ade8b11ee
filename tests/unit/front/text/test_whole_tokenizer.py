"""A tokenizer that is spread over several files becomes one, as transformers 5 puts it together.

The references were recorded by ``tools/record_odd_tokenizers.py``; transformers is not needed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from trtbuild_front.text.model import load_text_model
from trtbuild_front.text.whole_tokenizer import TokenizerFilesError, whole_tokenizer

from tests.data.odd_tokenizers import variants

REFERENCE = json.loads((Path(variants.__file__).parent / "reference.json").read_text())
FOUR, FIVE = "transformers 4.57.6", "transformers 5.24.0"


def whole(name: str) -> dict[str, Any]:
    files = variants.VARIANTS[name]
    beside = (files.get(f"{each}.json", {}) for each in ("tokenizer_config", "special_tokens_map", "added_tokens"))
    return whole_tokenizer(files["tokenizer.json"], *beside, is_strict=True)


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_ids_and_what_is_special_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    expected = REFERENCE[name][FIVE]
    found = Tokenizer.from_str(json.dumps(whole(name)))
    variants.write_variant(name, tmp_path)
    served = load_text_model(tmp_path, with_template=False)
    for sentence, ids, left in zip(variants.TEXTS, expected["ids"], expected["left"], strict=True):
        assert found.encode(sentence).ids == ids
        assert served.encode(sentence) == ids
        plain = found.encode(sentence, add_special_tokens=False).ids
        assert found.decode(plain) == left
        assert served.decode(plain) == left
    if expected["eos"] is not None and expected["eos"] < variants.SIZE + 8:
        assert served.end_ids == (expected["eos"],)


def test_where_the_releases_differ_is_known() -> None:
    """Whoever changes what is followed, or records a newer release, sees what changes."""
    differing = {
        name
        for name, each in REFERENCE.items()
        if "ids" not in each[FOUR] or (each[FOUR]["ids"], each[FOUR]["left"]) != (each[FIVE]["ids"], each[FIVE]["left"])
    }
    assert differing == {
        "extra special tokens, list",
        "both extras",
        *(f"LlamaTokenizerFast: {name}" for name in (
            "no flags", "bos", "bos and eos", "no bos, bos of the file",
        )),
    }  # fmt: skip


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_whole_tokenizer_stays_as_it_is(name: str) -> None:
    once = whole(name)
    assert whole_tokenizer({**once}, *_beside(name), is_strict=True) == once


def _beside(name: str) -> tuple[dict[str, Any], ...]:
    files = variants.VARIANTS[name]
    return tuple(files.get(f"{each}.json", {}) for each in ("tokenizer_config", "special_tokens_map", "added_tokens"))


@pytest.mark.parametrize(
    ("config", "added", "said"),
    [
        ({"added_tokens_decoder": {"900": {"content": "<x>"}}}, {}, "'<x>' is 900 by tokenizer_config.json"),
        ({"added_tokens_decoder": {"9": {"content": "<s>"}}}, {}, "'<s>' is 9 by .* but 1 by tokenizer.json"),
        ({}, {"<x>": 900}, "'<x>' is 900 by added_tokens.json"),
    ],
)
def test_a_token_with_two_ids_is_refused_by_a_build_and_served_as_transformers_does(
    config: dict[str, Any], added: dict[str, Any], said: str
) -> None:
    tokenizer = variants.tokenizer_json()
    with pytest.raises(TokenizerFilesError, match=said):
        whole_tokenizer(tokenizer, config, {}, added, is_strict=True)
    numbers = {token["content"]: token["id"] for token in whole_tokenizer(tokenizer, config, {}, added)["added_tokens"]}
    assert numbers["<s>"] == 1
    assert numbers.get("<x>", variants.SIZE) == variants.SIZE


@pytest.mark.parametrize(
    ("config", "added"),
    [({"added_tokens_decoder": {"x": {}}}, {}), ({"added_tokens_decoder": {"1": 5}}, {}), ({}, {"<x>": "1"})],
)
def test_files_that_hold_no_tokens_are_refused(config: dict[str, Any], added: dict[str, Any]) -> None:
    with pytest.raises(TokenizerFilesError, match="expected"):
        whole_tokenizer(variants.tokenizer_json(), config, {}, added)


def test_a_unigram_vocabulary_is_a_list() -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]}
    found = whole_tokenizer({"model": model, "added_tokens": []}, {"eos_token": "b", "pad_token": "<p>"}, {}, {})
    assert [(token["content"], token["id"]) for token in found["added_tokens"]] == [("b", 2), ("<p>", 3)]
