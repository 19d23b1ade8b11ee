"""The tokenizer in a GGUF file as the files of a Hugging Face model.

It decides how text is split before byte pairs are merged, which GGUF only names. Files are written as JSON here and not
by the ``tokenizers`` library, whose versions write different bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtbuild.errors import ConvertError

_SPECIAL = 3
"""``LLAMA_TOKEN_TYPE_CONTROL``. Source: llama.cpp, include/llama.h."""

_CLASS = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is. The original names GPT2Tokenizer, which transformers 5 gives
a split of its own: numbers such as ½ get other tokens than from the file.

Source: transformers 5.24, models/gpt2/tokenization_gpt2.py.
"""

_BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

_SPLITS = {"smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES]}}
"""What ``tokenizer.ggml.pre`` stands for.

Source: SmolLM2's tokenizer.json; llama.cpp, ``LLAMA_VOCAB_PRE_TYPE_SMOLLM``.
"""


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return tokenizer.json, tokenizer_config.json and special_tokens_map.json, parsed.

    Raises:
        ConvertError: It is another kind of tokenizer.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in _SPLITS:
        raise ConvertError(
            f"the GGUF file's tokenizer is {kind!r} with the split {split!r}, "
            f"expected 'gpt2' with one of {', '.join(_SPLITS)}",
            hint="use a package with a model whose tokenizer is known",
        )
    try:
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        merges, template = metadata["tokenizer.ggml.merges"], metadata["tokenizer.chat_template"]
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        special = {name: tokens[metadata[f"tokenizer.ggml.{own}_token_id"]] for name, own in names.items()}
    except (KeyError, IndexError) as error:
        raise ConvertError(
            f"the GGUF file's tokenizer is incomplete: {error}", hint="use a package with a whole model"
        ) from error
    added = {number: token for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _SPECIAL}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): _added(token) for number, token in added.items()},
        "additional_special_tokens": [special["bos_token"], special["eos_token"]],
        **special,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "tokenizer_class": _CLASS,
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **_added(token)} for number, token in added.items()],
        "normalizer": None,
        "pre_tokenizer": _SPLITS[split],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(tokens, merges),
    }
    map_ = {name: {key: value for key, value in _added(token).items() if key != "special"}
            for name, token in special.items()}  # fmt: skip
    map_["additional_special_tokens"] = config["additional_special_tokens"]
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config, "special_tokens_map.json": map_}


def _added(token: str) -> dict[str, Any]:
    return {
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _bpe(tokens: list[str], merges: list[str]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": merges,
    }
