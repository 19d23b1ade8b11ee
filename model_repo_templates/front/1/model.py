"""The front model as Triton sees it: inputs to arrays, answers to tensors, counts to metrics.

It decides nothing about requests; ``trtbuild_front.service`` does. Parameters are those of ``config.pbtxt``. With a
batch dimension (``max_batch_size: 1``) its tensors have the shapes of what TensorRT-LLM's BLS model sends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trtbuild_server
from trtbuild_front.byte_tensors import bound_strings
from trtbuild_front.engine import SECRET_VARIABLE, TIME_OUTPUTS, EngineContract
from trtbuild_front.fault_policy import end_process
from trtbuild_front.faults import ClientGoneError, EngineError, OverloadError, RequestError
from trtbuild_front.generation import Piece
from trtbuild_front.metrics.exporter import Exporter
from trtbuild_front.metrics.triton_series import TritonSeries
from trtbuild_front.openai.endpoint import OpenAiEndpoint, Served, identity_of, open_endpoint
from trtbuild_front.parameters import are_headers_forwarded
from trtbuild_front.request import Dialect
from trtbuild_front.service import Service, Settings
from trtbuild_front.text.decoder_chain import WholeVocabulary
from trtbuild_front.text.model import TextModel, load_text_model
from trtbuild_front.transport.connection import Connection
from trtbuild_front.transport.endpoint import find_endpoint, server_arguments

bound_strings(pb_utils)

_COUNTS = ("num_input_tokens", "num_output_tokens")
"""Outputs of TensorRT-LLM's models that are sent when ``return_<name>`` asks for them."""

_TICK_S = 0.2
_TICKS_PER_DISTRIBUTION = 5  # dozens of series, none of them for autoscaling: once a second is enough
_MOST_FAULTS = 20


class TritonReply:
    """The way back to one client of the server.

    Asking whether a request is cancelled while, or after, its last response is sent crashes the server: the Python
    backend has freed the response factory that it then asks. So one lock per request keeps the two apart.
    Seen with Triton 2.51: signal 11 in TRITONBACKEND_ResponseFactoryIsCancelled, once in some ten thousand requests.
    """

    counts: frozenset[str] = frozenset()
    """Outputs of ``_COUNTS`` that the request asks for."""

    def __init__(self, request: Any, has_batch_dimension: bool) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._sender = request.get_response_sender()
        self._wanted = frozenset(request.requested_output_names())
        self._lead = (1,) if has_batch_dimension else ()

    def send(self, piece: Piece) -> None:
        """Send one piece of text; the one with a finish reason ends the request."""
        is_last = bool(piece.finish_reason)
        # Without batch dimension in any case, as upstream's postprocessing answers and its clients read it.
        # Source: TensorRT-LLM, all_models/inflight_batcher_llm/postprocessing/1/model.py, 0.9 to 1.2.
        outputs = [self._strings("text_output", piece.text, ()), self._strings("finish_reason", piece.finish_reason)]
        outputs += [self._numbers(name, (0,), np.int32) for name in ("batch_index", "sequence_index")]
        if piece.log_probs:
            outputs.append(self._numbers("output_log_probs", piece.log_probs, np.float32, beams=self._lead))
        if piece.cum_log_prob is not None:
            outputs.append(self._numbers("cum_log_probs", (piece.cum_log_prob,), np.float32))
        if is_last:
            outputs.append(self._numbers("prompt_tokens", (piece.prompt_tokens,), np.int32))
            outputs.append(self._numbers("completion_tokens", (piece.completion_tokens,), np.int32))
            for name, count in zip(_COUNTS, (piece.prompt_tokens, piece.completion_tokens), strict=True):
                if name in self.counts:
                    outputs.append(self._numbers(name, (count,), np.int32))
            outputs += [
                self._numbers(name, (value,), np.int64)
                for name, value in zip(TIME_OUTPUTS, piece.times_ns, strict=False)  # none or all
            ]
        response = pb_utils.InferenceResponse([tensor for tensor in outputs if tensor is not None])
        self._send(response, is_last)

    def fail(self, error: Exception) -> None:
        """Send an error; clients may retry what is unavailable and must not retry what is invalid."""
        code, message = pb_utils.TritonError.INTERNAL, str(error)
        if isinstance(error, RequestError):
            code = pb_utils.TritonError.INVALID_ARG
        elif isinstance(error, OverloadError):
            # In the text too: the HTTP generate endpoint answers 400 to every error of a model, and a gRPC stream
            # carries the text only.
            code, message = pb_utils.TritonError.UNAVAILABLE, f"UNAVAILABLE: {error}"
        self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), True)

    def is_cancelled(self) -> bool:
        """Ask the server whether the client has gone."""
        with self._lock:
            return not self._is_over and bool(self._sender.is_cancelled())

    def _send(self, response: Any, is_last: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
        with self._lock:
            self._is_over = self._is_over or is_last
            try:
                self._sender.send(response, flags=flags)
            except pb_utils.TritonModelException as error:
                raise ClientGoneError(str(error)) from error

    def _strings(self, name: str, value: str, lead: tuple[int, ...] | None = None) -> Any:
        if name not in self._wanted:
            return None
        array = np.empty((*(self._lead if lead is None else lead), 1), np.object_)
        array[...] = value.encode()
        return pb_utils.Tensor(name, array)

    def _numbers(self, name: str, values: tuple[float, ...], dtype: type, beams: tuple[int, ...] = ()) -> Any:
        if name not in self._wanted:
            return None
        return pb_utils.Tensor(name, np.array(values, dtype).reshape((*self._lead, *beams, len(values))))


def _owned(array: Any) -> Any:
    """Return an array that outlives its request; strings have been copied already."""
    return array if array.dtype == np.object_ else array.copy()


class TritonPythonModel:
    """Called by the Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters and the tokenizer; start serving."""
        trtbuild_server.end_with_server()
        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._has_batch_dimension = int(config.get("max_batch_size", 0)) > 0
        contract = EngineContract(
            model=values["engine_model"],
            inputs=frozenset(values["engine_inputs"].split(",")),
            outputs=frozenset(values["engine_outputs"].split(",")),
            has_batch_dimension=values["engine_has_batch_dimension"] == "true",
            max_input_len=int(values["max_input_len"]),
            max_seq_len=int(values["max_seq_len"]),
            secret=os.environ.get(SECRET_VARIABLE, "") if values.get("engine_knows_front") == "true" else "",
        )
        arguments = server_arguments()
        inputs = frozenset(tensor["name"] for tensor in config["input"])
        dialect = Dialect(
            inputs=None if are_headers_forwarded(arguments) else inputs,
            is_decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
            echoes_prompt=values["echoes_prompt"] == "true",
        )
        settings = Settings(
            dialect=dialect,
            slots=int(values["slots"]),
            max_waiting=int(values["max_queue_size"]),
            default_max_tokens=int(values["default_max_tokens"]),
        )
        host, port = find_endpoint(values.get("grpc_endpoint", ""), os.environ, arguments)
        model = load_text_model(Path(values["tokenizer_dir"]))
        self._service = Service(
            text=model, contract=contract, settings=settings, connect=lambda: Connection(host, port)
        )
        self._service.start()
        self._stopping = threading.Event()
        self._endpoint: OpenAiEndpoint | None = None
        self._watch_server(arguments)
        self._ticker: threading.Thread | None = None
        if values["export_metrics"] == "true":
            self._export_metrics(args, settings.slots)
            self._open_endpoint(args, values, contract, settings, model)
        self._report(args["model_name"], f"engine {contract.model} at {host}:{port}", contract, settings, model)

    @staticmethod
    def _report(name: str, engine: str, contract: EngineContract, settings: Settings, model: TextModel) -> None:
        """Log what is served, and what cannot be."""
        pb_utils.Logger.log_info(
            f"front model {name}: {engine}, {settings.slots} slots, queue limit {settings.max_waiting or 'none'}, "
            f"prompt <= {contract.max_input_len} and prompt + answer <= {contract.max_seq_len} tokens, "
            f"end ids {list(model.end_ids)}, {type(model.vocabulary).__name__}, "
            f"chat template {'yes' if model.template else 'no'}"
        )
        if isinstance(model.vocabulary, WholeVocabulary):
            pb_utils.Logger.log_warn(
                f"front model {name}: text comes at the end of an answer only, and stop strings do not "
                f"end it early: {model.vocabulary.reason} cannot be run on parts of it"
            )
        if model.template is not None and (fault := model.template.start()):
            pb_utils.Logger.log_warn(f"front model {name}: messages are refused, text_input works: {fault}")

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests and return."""
        for request in requests:
            reply = None
            try:
                reply = TritonReply(request, self._has_batch_dimension)
                values = {tensor.name(): _owned(tensor.as_numpy()) for tensor in request.inputs()}
                reply.counts = frozenset(name for name in _COUNTS if np.any(values.get(f"return_{name}", False)))
                self._service.submit(values, reply, request.parameters())
            except ClientGoneError as error:
                pb_utils.Logger.log_verbose(f"an answer could not be delivered: {error}")
            except BaseException as error:  # noqa: BLE001 - one request must not take the others of its batch with it
                pb_utils.Logger.log_error(f"a request could not be taken: {error!r}")
                with contextlib.suppress(Exception):
                    if reply is not None:
                        reply.fail(EngineError(f"the request could not be taken: {error}"))

    def finalize(self) -> None:
        """End the threads; a stub that leaves some running outlives its server."""
        if self._endpoint is not None:
            until_s = self._service.drain_until_s or time.monotonic() + trtbuild_server.drain_time_s(server_arguments())
            self._service.drain(until_s)
            self._endpoint.close(until_s)
        self._stopping.set()
        self._service.stop()
        if self._ticker is not None:
            self._ticker.join()
            # Now, and the series before their families: later there is no server left to tell, and the process crashes.
            self._exporter.close()
            self._series.close()

    def _export_metrics(self, args: dict[str, str], slots: int) -> None:
        self._series = TritonSeries()
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._exporter = Exporter(self._series.make, labels, slots)
        self._exporter.export(self._service.accounting.snapshot(time.monotonic()))
        self._exporter.beat(self._service.beat_s)
        self._ticker = threading.Thread(target=self._tick, name="metrics", daemon=True)
        self._ticker.start()

    def _open_endpoint(
        self,
        args: dict[str, str],
        parameters: Mapping[str, str],
        contract: EngineContract,
        settings: Settings,
        text: TextModel,
    ) -> None:
        """Answer OpenAI's API too, where the server's environment says so."""
        arguments = server_arguments()
        served = Served(
            identity=identity_of(args["model_name"], parameters),
            text=text,
            contract=contract,
            service=self._service,
            slots=settings.slots,
            max_waiting=settings.max_waiting,
            model_version=args["model_version"],
            server=trtbuild_server.http_address(arguments),
            metrics=trtbuild_server.metrics_address(arguments),
        )
        self._endpoint = open_endpoint(os.environ, served, pb_utils.Logger.log_error)

    def _watch_server(self, arguments: list[str]) -> None:
        """Drain when the server is ending: Triton does not notify models of that."""
        address = trtbuild_server.http_address(arguments)
        drain_s = trtbuild_server.drain_time_s(arguments)

        def on_change(is_ending: bool) -> None:
            if is_ending:
                pb_utils.Logger.log_info(f"the server is ending; running requests have {drain_s:g} s")
                self._service.drain(time.monotonic() + drain_s)
            else:
                self._service.resume()
            if self._endpoint is not None:
                self._endpoint.drain() if is_ending else self._endpoint.resume()

        if address is not None:
            watch = functools.partial(trtbuild_server.watch_for_end, address, on_change, self._stopping)
            threading.Thread(target=watch, name="drain", daemon=True).start()

    def _tick(self) -> None:
        faults = 0
        for turn in itertools.count(1):
            if self._stopping.wait(_TICK_S):
                return
            try:
                snapshot = self._service.accounting.snapshot(time.monotonic())
                is_full = turn % _TICKS_PER_DISTRIBUTION == 0
                self._exporter.export(snapshot, with_distributions=is_full)
                if is_full:
                    self._exporter.beat(self._service.beat_s)
                faults = 0
            except BaseException as error:  # noqa: BLE001 - metrics that stand still are worse than a restart
                faults += 1
                pb_utils.Logger.log_error(f"the metrics could not be set: {error!r}")
                if faults >= _MOST_FAULTS:
                    end_process(f"the metrics could not be set {faults} times in a row: {error!r}")
