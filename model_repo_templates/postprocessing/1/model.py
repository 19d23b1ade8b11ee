"""Tokens to text, one Triton request at a time, with the tensor names of TensorRT-LLM's own template."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trtbuild_server
from trtbuild_front.faults import EngineError, RequestError
from trtbuild_front.steps import detokenize
from trtbuild_front.text.model import load_text_model


class TritonPythonModel:
    """Called by the Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer."""
        trtbuild_server.end_with_server()
        parameters = json.loads(args["model_config"])["parameters"]
        self._text = load_text_model(Path(parameters["tokenizer_dir"]["string_value"]), with_template=False)
        self._skips_special_tokens = parameters["skip_special_tokens"]["string_value"] == "true"

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return the text of every request."""
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            output = detokenize(
                inputs["TOKENS_BATCH"],
                inputs["SEQUENCE_LENGTH"],
                self._text,
                skips_special_tokens=self._skips_special_tokens,
            )
        except (RequestError, EngineError) as error:
            is_invalid = isinstance(error, RequestError)
            code = pb_utils.TritonError.INVALID_ARG if is_invalid else pb_utils.TritonError.INTERNAL
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)])
