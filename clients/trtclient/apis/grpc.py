"""Triton's gRPC streaming, through tritonclient: one bidirectional stream per request.

Source: KServe v2 protocol with Triton's ``ModelStreamInfer``; errors come inside the stream and carry text only. The
server ends the stream when the client has no more requests and the last response of the only one is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from trtbuild.errors import SpecError
from trtclient.apis.generate import piece_of, request_body
from trtclient.errors import RequestFailure, classify
from trtclient.generation import Generation, OnPiece

_INT32 = {"max_tokens", "top_k", "min_tokens", "min_length", "end_id", "pad_id", "beam_width"}
_UINT64 = {"seed", "random_seed"}
_MAX_BYTES = 64 * 1024 * 1024


class GrpcApi:
    """A model behind Triton's gRPC port."""

    def __init__(
        self, url: str, model: str, *, headers: Mapping[str, str] | None = None, ca_file: str | None = None
    ) -> None:
        try:
            from tritonclient.grpc import aio
        except ImportError as error:
            raise SpecError(f"gRPC needs tritonclient: {error}", hint="pip install 'trtbuild[clients]'") from error
        scheme, _, target = url.partition("://")
        self._client = aio.InferenceServerClient(
            target.rstrip("/"),
            ssl=scheme in {"grpcs", "https"},
            root_certificates=ca_file if ca_file and Path(ca_file).exists() else None,
            channel_args=[
                ("grpc.lb_policy_name", "round_robin"),  # a headless Service has one address per pod
                ("grpc.max_receive_message_length", _MAX_BYTES),
                ("grpc.max_send_message_length", _MAX_BYTES),
            ],
        )
        self._model = model
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}

    async def generate(self, request: Generation, on_piece: OnPiece) -> None:
        """Send ``request`` and hand over its pieces; see :class:`trtclient.generation.Api`."""
        import grpc
        from tritonclient.utils import InferenceServerException

        now = asyncio.get_running_loop().time
        has_piece = False
        failure: RequestFailure | None = None
        responses = self._client.stream_infer(self._messages(request), headers=self._headers or None)
        try:
            # To the very end: after a stream that is cancelled behind its last response, Triton 2.51 waits for its
            # model until --exit-timeout when it is asked to stop.
            async for result, error in responses:
                at_s = now()
                if error is not None:
                    failure = failure or RequestFailure(classify(str(error.message())), str(error.message()))
                    continue
                response = result.get_response()
                if response.outputs:
                    has_piece = True
                    on_piece(piece_of(at_s, _values(result, response)))
        except (InferenceServerException, grpc.aio.AioRpcError) as error:
            raise _failure(error) from error
        finally:
            responses.cancel()
        if failure is not None:
            raise failure
        if not has_piece:
            raise RequestFailure("protocol", "the stream ended without a response")

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def _messages(self, request: Generation) -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": self._model,
            "inputs": [_input(name, value) for name, value in request_body(request).items()],
        }


def _input(name: str, value: object) -> Any:
    """Return the tensor for one input of the front model, shaped ``[n]``."""
    import numpy as np
    from tritonclient.grpc import InferInput

    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bool):
        kind, array = "BOOL", np.array(values, np.bool_)
    elif name in _INT32:
        kind, array = "INT32", np.array(values, np.int32)
    elif name in _UINT64:
        kind, array = "UINT64", np.array(values, np.uint64)
    elif isinstance(values[0], int | float):
        kind, array = "FP32", np.array(values, np.float32)
    else:
        kind, array = "BYTES", np.array([str(item).encode() for item in values], np.object_)
    tensor = InferInput(name, [len(values)], kind)
    tensor.set_data_from_numpy(array)
    return tensor


def _values(result: Any, response: Any) -> dict[str, object]:
    """Return the outputs of one response as plain values."""
    values: dict[str, object] = {}
    for output in response.outputs:
        if output.name in {"text_output", "finish_reason", "prompt_tokens", "completion_tokens"}:
            array = result.as_numpy(output.name).reshape(-1)
            first = array[0] if array.size else None
            values[output.name] = first.decode("utf-8", "replace") if isinstance(first, bytes) else _number(first)
    return values


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _failure(error: Any) -> RequestFailure:
    """Return the failure for an error of the call itself (the connection, the server, the model's name)."""
    text = str(error.details() if hasattr(error, "details") else error.message())
    code = str(error.code() if hasattr(error, "code") else error.status())
    if "UNAVAILABLE" in code and ("connect" in text.lower() or "dns" in text.lower()):
        return RequestFailure("connect", text)
    if "UNAVAILABLE" in code and ("reset" in text.lower() or "closed" in text.lower()):
        return RequestFailure("disconnected", text)
    return RequestFailure(classify(f"{code} {text}"), text)
