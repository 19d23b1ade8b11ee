"""Comparison: business logic scripting as TensorRT-LLM's template does it with ``accumulate_tokens``.

One request per instance at a time; the engine is called through BLS; all tokens so far are decoded again at every
token, and the difference is sent. (Without accumulating, characters that are split over tokens are lost.)
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from any_tokenizer import load


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = load(parameters["tokenizer_dir"]["string_value"])
        self.engine = parameters["engine_model"]["string_value"]

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0][0].decode()
            length = pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()
            self.generate(text, length, request.get_response_sender())

    def generate(self, text: str, length: Any, sender: Any) -> None:
        ids = np.array([self.tokenizer.encode(text)], np.int32)
        inputs = {
            "input_ids": ids,
            "input_lengths": np.array([[ids.shape[1]]], np.int32),
            "request_output_len": length,
            "streaming": np.array([[True]]),
        }
        call = pb_utils.InferenceRequest(
            model_name=self.engine,
            requested_output_names=["output_ids", "sequence_length"],
            inputs=[pb_utils.Tensor(*item) for item in inputs.items()],
        )
        tokens: list[int] = []
        shown = ""
        for response in call.exec(decoupled=True):
            found = pb_utils.get_output_tensor_by_name(response, "output_ids")
            if found is None:
                continue
            tokens += found.as_numpy().reshape(-1).tolist()
            whole = self.tokenizer.decode(tokens)
            piece = np.array([[whole[len(shown) :].encode()]], np.object_)
            shown = whole
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", piece)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
