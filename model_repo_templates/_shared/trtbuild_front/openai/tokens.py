"""``/tokenize`` and ``/detokenize``: what the model's tokenizer makes of a prompt, and back.

It decides their requests and answers. They are not counted: nothing is generated.

Source: vLLM 0.32, ``entrypoints/openai`` (TokenizeCompletionRequest, TokenizeChatRequest, DetokenizeRequest).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trtbuild_http.jsontext import dumps

from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.openai import fields
from trtbuild_front.openai.faults import as_api_error
from trtbuild_front.openai.reading import conversation
from trtbuild_front.openai.schema import check_body, refuse

if TYPE_CHECKING:
    from trtbuild_http.exchange import Exchange

    from trtbuild_front.text.model import TextModel

Tokenize = Callable[[GenerationRequest, Callable[["list[int] | Exception"], None]], None]
"""Hands the tokens of a request's prompt to a callback, from another thread."""

Run = Callable[[int, Callable[[], None]], None]
"""Runs a task that handles so many bytes in another thread."""


class TokenRoutes:
    """The two handlers."""

    def __init__(self, text: TextModel, tokenize: Tokenize, run: Run, max_model_len: int) -> None:
        self._text, self._tokenize, self._run, self._max_model_len = text, tokenize, run, max_model_len

    def tokenize(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Answer with the tokens of a text or a conversation.

        Raises:
            ApiError: The request is wrong.
            RequestError: The prompt is too long.
            BusyError: Too many conversations wait.
        """
        check_body(body, fields.TOKENIZE, ())
        if (body.get("prompt") is None) == (body.get("messages") is None):
            got = "neither" if body.get("prompt") is None else "both"
            raise refuse("prompt", f"prompt: expected prompt or messages, got {got}")
        adds = body.get("add_special_tokens")
        if body.get("prompt") is not None:
            request = GenerationRequest(text=body["prompt"], adds_special_tokens=adds)
        else:
            messages, options = conversation(body)
            request = GenerationRequest(messages=messages, template_options=options, adds_special_tokens=adds)

        def answer(found: list[int] | Exception) -> None:
            if isinstance(found, Exception):
                exchange.fail(as_api_error(found))
                return
            tokenizer = self._text.tokenizer
            strings = [tokenizer.id_to_token(number) for number in found] if body.get("return_token_strs") else None
            document = {"count": len(found), "max_model_len": self._max_model_len, "tokens": found}
            exchange.respond(200, dumps({**document, "token_strs": strings}))

        self._tokenize(request, answer)

    def detokenize(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Answer with the text of tokens, special tokens included.

        Raises:
            ApiError: The request is wrong.
        """
        check_body(body, fields.DETOKENIZE, ("tokens",))
        tokens = list(map(int, body["tokens"]))
        outside = next((number for number in tokens if number >= self._text.vocab_size), None)
        if outside is not None:
            most = self._text.vocab_size - 1
            raise refuse("tokens", f"tokens: expected tokens from 0 to {most}, got {outside}")

        def answer() -> None:
            try:
                text = self._text.decode(tokens, skips_special_tokens=False)
                exchange.respond(200, dumps({"prompt": text}))
            except Exception as error:  # noqa: BLE001 - the tokenizers library raises what it likes; nobody else looks
                exchange.fail(as_api_error(error))

        self._run(8 * len(tokens), answer)
