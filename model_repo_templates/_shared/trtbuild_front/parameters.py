"""Request parameters: what a client sent that is no input of the model.

Triton's HTTP ``generate`` makes a parameter of every JSON name that is no input, and no model reads it: a typing
error would go unnoticed. So names that neither Triton nor a known client uses are refused.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from trtbuild_front import upstream
from trtbuild_front.faults import RequestError
from trtbuild_front.limits import MAX_PARAMETERS_BYTES

KNOWN = frozenset(
    {
        # Source: triton-inference-server/server, docs/protocol: extension_generate.md, extension_sequence.md,
        # extension_schedule_policy.md, extension_binary_data.md; seen with Triton 2.51.
        *("id", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"),
        # Source: kserve/open-inference-protocol, inference_rest.md; SeldonIO/MLServer, docs/user-guide/content-type.md.
        *("content_type", "headers"),
    }
)
_RESERVED = "triton_"
_LONGEST_NAME = 64
_FORWARDING = ("--http-header-forward-pattern", "--grpc-header-forward-pattern")
"""Options of the server that turn request headers into parameters of any name. Source: extension_parameters.md."""


def are_headers_forwarded(server_arguments: Sequence[str]) -> bool:
    """Return whether parameters may be request headers, by the server's command line."""
    return any(argument.split("=", 1)[0] in _FORWARDING for argument in server_arguments)


def check_parameters(parameters: str, inputs: Iterable[str]) -> None:
    """Check the parameters of a request, as the Python backend hands them over (a JSON object).

    Raises:
        RequestError: One of them is unknown, or an input in the wrong place.
    """
    if parameters in {"", "{}"}:
        return
    if len(parameters) > MAX_PARAMETERS_BYTES:
        raise RequestError(
            f"parameters: expected at most {MAX_PARAMETERS_BYTES} bytes of names that are no inputs and their values; "
            f"got {len(parameters)}"
        )
    names = set(inputs)
    for name, value in sorted(json.loads(parameters).items()):
        if name in KNOWN or name.startswith(_RESERVED):
            continue
        if name in upstream.INPUTS and name not in names:
            upstream.refuse({name: np.array([value])}, [name])
            continue
        if name in names:
            raise RequestError(
                f"{name}: sent as a parameter, but it is an input of this model: send it beside text_input"
            )
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        near = difflib.get_close_matches(shown, sorted(names), 1, 0.6)
        raise RequestError(f"{shown}: this model has no such input{f'; did you mean {near[0]}?' if near else ''}")
