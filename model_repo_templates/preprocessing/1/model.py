"""Text to tokens, one Triton request at a time, with the tensor names of TensorRT-LLM's own template."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trtbuild_server
from trtbuild_front.byte_tensors import bound_strings
from trtbuild_front.faults import EngineError, RequestError
from trtbuild_front.parameters import are_headers_forwarded, check_parameters
from trtbuild_front.steps import tokenize
from trtbuild_front.text.model import load_text_model
from trtbuild_front.transport.endpoint import server_arguments


class TritonPythonModel:
    """Called by the Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer."""
        trtbuild_server.end_with_server()
        bound_strings(pb_utils)
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._text = load_text_model(Path(parameters["tokenizer_dir"]), with_template=False)
        self._most_tokens = int(parameters["max_input_len"])
        self._adds_special_tokens = parameters["add_special_tokens"] == "true"
        known = {tensor["name"] for tensor in config["input"]} | set(parameters["ensemble_inputs"].split(","))
        self._known_names = None if are_headers_forwarded(server_arguments()) else known
        self._has_batch_dimension = int(config.get("max_batch_size", 0)) > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return the tokens of every request, or its error."""
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if not self._has_batch_dimension:
            inputs = {name: value[np.newaxis] for name, value in inputs.items()}
        try:
            if self._known_names is not None:
                check_parameters(request.parameters(), self._known_names)
            outputs = tokenize(
                inputs, self._text, adds_special_tokens=self._adds_special_tokens, most_tokens=self._most_tokens
            )
        except (RequestError, EngineError) as error:
            is_invalid = isinstance(error, RequestError)
            code = pb_utils.TritonError.INVALID_ARG if is_invalid else pb_utils.TritonError.INTERNAL
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
        tensors = [
            pb_utils.Tensor(name, value if self._has_batch_dimension else value[0]) for name, value in outputs.items()
        ]
        return pb_utils.InferenceResponse(tensors)
