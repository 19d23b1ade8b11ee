"""Messages written and read by hand, against the generated protobuf classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from trtbuild_front.transport import kserve

TYPES = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.lists(st.integers(0, 300), min_size=1, max_size=2).filter(lambda sizes: np.prod(sizes) <= 400))
    size = int(np.prod(shape))
    if draw(st.booleans()):
        values = np.empty(size, np.object_)
        values[:] = [draw(st.binary(max_size=200)) for _ in range(min(size, 3))] + [b"x"] * max(0, size - 3)
        return values.reshape(shape)
    dtype = draw(st.sampled_from(sorted(TYPES)))
    return np.arange(size).astype(TYPES[dtype]).reshape(shape)


def _datatype(array: np.ndarray[Any, Any]) -> str:
    return "BYTES" if array.dtype == np.object_ else next(k for k, v in TYPES.items() if array.dtype == v)


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1))


@given(st.dictionaries(st.text(min_size=1, max_size=150), arrays(), max_size=4), st.text(max_size=5))
@settings(max_examples=60)
def test_requests_are_what_the_server_reads(inputs: dict[str, Any], request_id: str) -> None:
    message = service_pb2.ModelInferRequest.FromString(
        kserve.encode_request("engine", request_id, inputs, ["output_ids", "b"])
    )
    assert (message.model_name, message.id) == ("engine", request_id)
    assert [output.name for output in message.outputs] == ["output_ids", "b"]
    assert [(t.name, t.datatype, tuple(t.shape)) for t in message.inputs] == [
        (name, _datatype(value), value.shape) for name, value in inputs.items()
    ]
    assert list(message.raw_input_contents) == [_raw(value) for value in inputs.values()]


@given(st.dictionaries(st.text(max_size=150), st.text(max_size=300), max_size=3))
@settings(max_examples=60)
def test_parameters_are_what_the_server_reads(parameters: dict[str, str]) -> None:
    raw = kserve.encode_request("engine", "7", {}, [], parameters)
    message = service_pb2.ModelInferRequest.FromString(raw)
    assert {name: value.string_param for name, value in message.parameters.items()} == parameters


@given(st.dictionaries(st.text(min_size=1, max_size=150), arrays(), max_size=4), st.text(max_size=200))
@settings(max_examples=60)
def test_what_the_server_writes_is_read(outputs: dict[str, Any], error: str) -> None:
    message = service_pb2.ModelStreamInferResponse(error_message=error)
    response = message.infer_response
    response.model_name, response.id = "engine", "7"
    response.parameters["triton_final_response"].bool_param = True
    for name, value in outputs.items():
        tensor = response.outputs.add(name=name, datatype=_datatype(value), shape=value.shape)
        tensor.parameters["n"].int64_param = 2**40
        response.raw_output_contents.append(_raw(value))
    decoded = kserve.decode_response(message.SerializeToString())
    assert decoded.error == error
    assert set(decoded.outputs) == set(outputs)
    for name, value in outputs.items():
        assert decoded.outputs[name].shape == value.shape
        assert decoded.outputs[name].tolist() == value.tolist()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x12\x04\x2a\x02\x0a", id="cut-off"),
        pytest.param(b"\x0b", id="a-group"),
        pytest.param(
            service_pb2.ModelStreamInferResponse(
                infer_response=service_pb2.ModelInferResponse(
                    outputs=[service_pb2.ModelInferResponse.InferOutputTensor(name="x", datatype="FP16", shape=[1])],
                    raw_output_contents=[b"\0\0"],
                )
            ).SerializeToString(),
            id="an-unexpected-type",
        ),
        pytest.param(
            service_pb2.ModelStreamInferResponse(
                infer_response=service_pb2.ModelInferResponse(
                    outputs=[service_pb2.ModelInferResponse.InferOutputTensor(name="x", datatype="INT32", shape=[1])]
                )
            ).SerializeToString(),
            id="no-raw-contents",
        ),
    ],
)
def test_other_bytes_are_an_error_and_not_a_crash(message: bytes) -> None:
    with pytest.raises(ValueError):
        kserve.decode_response(message)
