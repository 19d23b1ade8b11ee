"""The two messages of KServe's gRPC protocol that the front model needs, written and read by hand.

It decides bytes only. A generated protobuf module would be one more dependency of a model that has to run in images
we do not make, and it is slower for messages of one token.

Source: kserve/open-inference-protocol, grpc_predict_v2.proto (field numbers); protobuf encoding guide (wire format).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
Array = npt.NDArray[np.generic]

_DATATYPES = {
    "bool": "BOOL",
    "int32": "INT32",
    "int64": "INT64",
    "uint64": "UINT64",
    "float32": "FP32",
}
_NUMPY_TYPES = {datatype: np.dtype(name) for name, datatype in _DATATYPES.items()}
_SENT_ONLY = {"float16": "FP16"}


@dataclass(slots=True)
class Response:
    """One answer of a model. ``error`` is empty on success; outputs that the model did not send are absent."""

    error: str = ""
    outputs: dict[str, Array] = field(default_factory=dict)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _strings(values: Array) -> bytes:
    out = bytearray()
    for value in values.reshape(-1):
        raw = value if isinstance(value, bytes) else str(value).encode()
        out += len(raw).to_bytes(4, "little") + raw
    return bytes(out)


def encode_request(
    model: str,
    request_id: str,
    inputs: Mapping[str, Array],
    outputs: Iterable[str],
    parameters: Mapping[str, str] | None = None,
) -> bytes:
    """Return a ``ModelInferRequest`` with raw contents and text parameters, asking for ``outputs`` only."""
    message = bytearray(_field(1, model.encode()))
    if request_id:
        message += _field(3, request_id.encode())
    for key, text in (parameters or {}).items():
        message += _field(4, _field(1, key.encode()) + _field(2, _field(3, text.encode())))
    raw = bytearray()
    for name, value in inputs.items():
        is_text = value.dtype == np.object_
        kind = value.dtype.name
        datatype = "BYTES" if is_text else _DATATYPES.get(kind) or _SENT_ONLY[kind]
        tensor = _field(1, name.encode()) + _field(2, datatype.encode())
        tensor += _field(3, b"".join(_varint(size) for size in value.shape))
        message += _field(5, tensor)
        raw += _field(7, _strings(value) if is_text else value.tobytes())
    for name in outputs:
        message += _field(6, _field(1, name.encode()))
    return bytes(message + raw)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    shift = 7
    while True:
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7


def _skip(data: bytes, at: int, wire_type: int) -> int:
    if wire_type == 0:
        return _read_varint(data, at)[1]
    if wire_type == 1:
        return at + 8
    if wire_type == 5:
        return at + 4
    raise ValueError(f"unexpected protobuf wire type {wire_type}")


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Return the length-delimited fields of a message; scalars outside of them are of no interest here."""
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _read_varint(data, at - 1)
        if tag & 7 == 2:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _read_varint(data, at - 1)
            found.append((tag >> 3, data[at : at + size]))
            at += size
        else:
            at = _skip(data, at, tag & 7)
    return found


@functools.lru_cache(maxsize=512)
def _tensor(data: bytes) -> tuple[str, str, tuple[int, ...]]:
    """Return name, type and shape of an output. Cached: they are the same at every token."""
    name = datatype = ""
    shape: list[int] = []
    for number, payload in _fields(data):
        if number == 1:
            name = payload.decode()
        elif number == 2:
            datatype = payload.decode()
        elif number == 3:
            at = 0
            while at < len(payload):
                size, at = _read_varint(payload, at)
                shape.append(size)
    return name, datatype, tuple(shape)


def _array(raw: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, _NUMPY_TYPES[datatype]).reshape(shape)
    values: list[bytes] = []
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def decode_response(data: bytes) -> Response:
    """Read a ``ModelStreamInferResponse``.

    Raises:
        ValueError: The bytes are not such a message.
    """
    response = Response()
    try:
        for number, payload in _fields(data):
            if number == 1:
                response.error = payload.decode("utf-8", "replace")
            elif number == 2:
                _decode_outputs(payload, response)
    except (IndexError, KeyError) as error:
        raise ValueError(f"not a ModelStreamInferResponse: {error!r}") from error
    return response


def _decode_outputs(data: bytes, response: Response) -> None:
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    raw: list[bytes] = []
    for number, payload in _fields(data):
        if number == 5:
            tensors.append(_tensor(payload))
        elif number == 6:
            raw.append(payload)
    for (name, datatype, shape), contents in zip(tensors, raw, strict=True):
        response.outputs[name] = _array(contents, datatype, shape)
