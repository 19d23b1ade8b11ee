"""From a checkpoint to an OpenVINO model, without torch; a checkpoint that does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtbuild.backends.cpu.decoder import Decoder
from trtbuild.backends.cpu.families import family_of
from trtbuild.backends.cpu.graph import Graph, Outline, Storage
from trtbuild.backends.cpu.openvino import ov
from trtbuild.backends.cpu.weights import Array, Checkpoint
from trtbuild.errors import FetchError


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """A model and the memory its constants live in; keep it until the model is saved."""

    model: ov.Model
    arrays: tuple[Array, ...]


def build_model(
    decoder: Decoder, checkpoint: Checkpoint, storage: Storage, *, on_layer: Callable[[int], None] = lambda _: None
) -> BuiltModel:
    """Return the OpenVINO model of a checkpoint.

    Args:
        decoder: What to build.
        checkpoint: Its weights; must stay mapped until the model is saved.
        storage: How matrices are kept; float32 is computed from them whatever it is.
        on_layer: Called with the number of each finished layer.

    Raises:
        ConvertError: A tensor is missing or has an unexpected shape.
    """
    graph = Graph(decoder, checkpoint, storage)
    model = _build(graph, on_layer)
    return BuiltModel(model=model, arrays=tuple(graph.arrays))


def check_model(decoder: Decoder, checkpoint: Checkpoint) -> None:
    """Build the graph from the shapes of the weights alone, in moments: no value is read or converted.

    Raises:
        ConvertError: A tensor is missing or has an unexpected shape.
    """
    _build(Outline(decoder, checkpoint, "float32"), lambda _: None)


def _build(graph: Graph, on_layer: Callable[[int], None]) -> ov.Model:
    try:
        logits = family_of(graph.decoder.architecture).build(graph, on_layer)
        return graph.model(logits)
    except RuntimeError as error:  # what openvino raises when shapes do not fit
        raise FetchError(
            f"the weights do not fit config.json: {str(error).strip().splitlines()[-1]}",
            hint="the snapshot mixes files of different models; remove it and run the command again",
        ) from error
