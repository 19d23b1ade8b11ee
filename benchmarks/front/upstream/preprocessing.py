"""Comparison: tokenize as TensorRT-LLM's preprocessing model does, a request at a time, with the same tensors."""

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

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            query = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy()
            length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
            ids = np.array([self.tokenizer.encode(row[0].decode()) for row in query], np.int32)
            empty = np.zeros((1, 2, 0), np.int32)
            outputs = {
                "INPUT_ID": ids,
                "REQUEST_INPUT_LEN": np.array([[ids.shape[1]]], np.int32),
                "REQUEST_OUTPUT_LEN": length,
                "STOP_WORDS_IDS": empty,
                "BAD_WORDS_IDS": empty,
                "OUT_END_ID": np.array([[-1]], np.int32),
                "OUT_PAD_ID": np.array([[0]], np.int32),
            }
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()]))
        return responses
