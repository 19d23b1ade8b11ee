"""Comparison: decode as TensorRT-LLM's postprocessing model does, every response of the engine by itself."""

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
            tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
            lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
            texts = [
                self.tokenizer.decode(beam[: lengths[row][at]].tolist()).encode()
                for row, beams in enumerate(tokens)
                for at, beam in enumerate(beams)
            ]
            output = pb_utils.Tensor("OUTPUT", np.array(texts, np.object_).reshape(lengths.shape))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
