"""What the model says to the server, with a server that records; the real one is in the integration tests."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from trtbuild_front.faults import ClientGoneError, EngineError, OverloadError, RequestError
from trtbuild_front.generation import Piece

MODEL = Path(__file__).resolve().parents[3] / "model_repo_templates" / "front" / "1" / "model.py"
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
ALL = (
    *("text_output", "finish_reason", "prompt_tokens", "completion_tokens", "cum_log_probs", "output_log_probs"),
    *TIMES,
)


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE = "internal", "invalid", "unavailable"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class Sender:
    """A response sender that crashes where the real one takes the server with it."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.is_freed = self.is_asked = False
        self.asks = 0
        self.fails = False

    def send(self, response: Any, flags: int = 0) -> None:
        assert not self.is_freed
        if self.fails:
            raise FakeUtils.TritonModelException("gone")
        self.is_freed = bool(flags)
        for _ in range(20):  # the factory is freed somewhere in here
            assert not self.is_asked
            time.sleep(0.0001)
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        assert not self.is_freed
        self.is_asked = True
        time.sleep(0.0001)
        self.asks += 1
        self.is_asked = False
        return False


class FakeUtils(ModuleType):
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    TritonError = TritonError

    class TritonModelException(Exception):
        pass

    @staticmethod
    def Tensor(name: str, value: Any) -> tuple[str, Any]:
        return name, value

    @staticmethod
    def InferenceResponse(tensors: Any = (), error: Any = None) -> Any:
        return SimpleNamespace(tensors=dict(tensors), error=error)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    sys.modules["triton_python_backend_utils"] = FakeUtils("triton_python_backend_utils")
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("front_model_under_test", MODEL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    del sys.modules["triton_python_backend_utils"]


def _reply(model: Any, has_batch_dimension: bool = False, wanted: tuple[str, ...] = ALL) -> tuple[Any, Sender]:
    sender = Sender()
    request = SimpleNamespace(get_response_sender=lambda: sender, requested_output_names=lambda: list(wanted))
    return model.TritonReply(request, has_batch_dimension), sender


LAST = Piece(
    text="é",
    log_probs=(-1.0, -2.0),
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    cum_log_prob=-3.0,
    times_ns=(1, 2, 3, 2**62),
)


@pytest.mark.parametrize(
    ("has_batch", "shapes"),
    [
        pytest.param(False, {"text_output": (1,), "output_log_probs": (2,), "cum_log_probs": (1,)}, id="plain"),
        pytest.param(True, {"text_output": (1,), "output_log_probs": (1, 1, 2), "cum_log_probs": (1, 1)}, id="batch"),
    ],
)
def test_the_last_piece_has_everything(model: Any, has_batch: bool, shapes: dict[str, tuple[int, ...]]) -> None:
    reply, sender = _reply(model, has_batch)
    reply.send(LAST)
    [(response, flags)] = sender.sent
    assert flags == 1
    assert set(response.tensors) == set(ALL)
    assert {name: response.tensors[name].shape for name in shapes} == shapes
    assert response.tensors["text_output"].reshape(-1)[0] == "é".encode()
    assert response.tensors["output_log_probs"].dtype == np.float32
    assert response.tensors["completion_tokens"].dtype == np.int32
    assert [response.tensors[name].reshape(-1).tolist() for name in TIMES] == [[1], [2], [3], [2**62]]


def test_other_pieces_have_text_and_no_reason(model: Any) -> None:
    reply, sender = _reply(model)
    reply.send(Piece(text="a"))
    [(response, flags)] = sender.sent
    assert flags == 0
    assert set(response.tensors) == {"text_output", "finish_reason"}
    assert response.tensors["finish_reason"][0] == b""


def test_only_what_the_client_wants_is_sent(model: Any) -> None:
    reply, sender = _reply(model, wanted=("text_output",))
    reply.send(LAST)
    assert set(sender.sent[0][0].tensors) == {"text_output"}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(RequestError("bad"), "invalid", "bad", id="request"),
        pytest.param(OverloadError("full"), "unavailable", "UNAVAILABLE: full", id="overload"),
        pytest.param(EngineError("broken"), "internal", "broken", id="engine"),
    ],
)
def test_errors_say_who_is_to_blame_and_end_the_request(model: Any, error: Exception, code: str, message: str) -> None:
    reply, sender = _reply(model)
    reply.fail(error)
    [(response, flags)] = sender.sent
    assert (response.error.code, response.error.message, flags) == (code, message, 1)


def test_a_client_that_has_gone_is_our_own_error(model: Any) -> None:
    reply, sender = _reply(model)
    sender.fails = True
    with pytest.raises(ClientGoneError):
        reply.send(LAST)


def test_cancellation_is_not_queried_during_or_after_the_last_answer(model: Any) -> None:
    for _ in range(20):
        reply, sender = _reply(model)
        is_over = threading.Event()
        faults: list[BaseException] = []

        def ask(reply: Any = reply, is_over: threading.Event = is_over, faults: list[BaseException] = faults) -> None:
            try:
                while not is_over.is_set():
                    reply.is_cancelled()
                for _ in range(10):
                    assert reply.is_cancelled() is False
            except AssertionError as error:
                faults.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not sender.asks:
            time.sleep(0.0001)
        reply.send(LAST)
        is_over.set()
        thread.join()
        assert not faults
        assert sender.is_freed
