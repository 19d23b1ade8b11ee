"""What values in a config.json mean to every family; whatever has no parity test is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.backends.cpu.decoder import Activation
from trtbuild.errors import SpecError
from trtbuild.untrusted import shown

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def refuse_option(architecture: str, name: str, value: object, expected: str) -> SpecError:
    """Return the refusal of a setting that no parity test covers."""
    return SpecError(
        f"{architecture} with {name}={shown(value)} is not covered by the cpu backend; expected {expected}",
        hint="use a GPU backend for this model",
    )


def read_activation(architecture: str, name: str) -> Activation:
    """Return the activation that a config.json names."""
    activation = _ACTIVATIONS.get(name)
    if activation is None:
        raise refuse_option(architecture, "activation", name, f"one of {', '.join(_ACTIVATIONS)}")
    return activation


def head_size(hidden: int, heads: int, where: str) -> int:
    """Return the channels of one attention head."""
    if hidden % heads:
        raise SpecError(
            f"{where}: {heads} attention heads do not divide {hidden} channels",
            hint="compare it with the config.json of the original model on the hub",
        )
    return hidden // heads
