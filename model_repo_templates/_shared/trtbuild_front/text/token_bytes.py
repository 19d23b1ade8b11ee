"""How a single token is spelled, in bytes: joined, the bytes of a text's tokens are the text's.

It decides what a token stands for by itself; a space that some decoders drop at the beginning of a text is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtbuild_front.faults import panics_as_errors
from trtbuild_front.text.detokenizer import ByteLevelVocabulary, PieceVocabulary

if TYPE_CHECKING:
    from trtbuild_front.text.model import TextModel


def token_bytes(text: TextModel, token_id: int) -> bytes:
    """Return the bytes of a token; special tokens as they are written, nothing for ids that have no token."""
    vocabulary = text.full_vocabulary
    if isinstance(vocabulary, ByteLevelVocabulary):
        return vocabulary.pieces[token_id] if 0 <= token_id < len(vocabulary.pieces) else b""
    if isinstance(vocabulary, PieceVocabulary):
        if token_id in vocabulary.byte_values:
            return bytes([vocabulary.byte_values[token_id]])
        known = vocabulary.texts[token_id] if 0 <= token_id < len(vocabulary.texts) else None
        return (known or "").encode()
    with panics_as_errors():
        return str(text.tokenizer.decode([token_id], skip_special_tokens=False)).encode()
