"""Check what was rendered as strictly as the server would: configurations, an ensemble's wiring, the tokenizer."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trtbuild.errors import RepositoryError
from trtbuild.repository.files import Files

_CONVERT = (
    "with transformers, AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY) writes one; "
    "copy the model's other files there too and build from DIRECTORY"
)


def check_tokenizer(directory: Path) -> None:
    """Refuse a directory that has no tokenizer which the server can read.

    Raises:
        RepositoryError: With what is there and how it becomes a tokenizer.json.
    """
    if (directory / "tokenizer.json").is_file():
        return
    if (directory / "tokenizer.model").is_file():
        raise RepositoryError(
            f"{directory} holds a tokenizer.model (SentencePiece) and no tokenizer.json, which the server needs",
            hint=_CONVERT,
        )
    if not directory.is_dir():
        raise RepositoryError(
            f"there is no directory {directory}",
            hint="the engine's entry is incomplete: trtbuild store verify names it; building again repairs it",
        )
    raise RepositoryError(
        f"{directory} holds no tokenizer.json",
        hint=f"the model that it was built from has none: {_CONVERT}",
    )


def parse_config(files: Files, name: str) -> Any:
    """Return the parsed ``config.pbtxt`` of a model after the checks that hold for every model."""
    from google.protobuf import text_format

    text = files[f"{name}/config.pbtxt"].decode()
    for number, line in enumerate(text.splitlines(), 1):
        for mark in ("${", "{{", "{%"):
            if mark in line:
                raise RepositoryError(
                    f"{name}/config.pbtxt:{number}: unresolved placeholder: {line.strip()}",
                    hint="a value holds template syntax; choose paths and names without ${ and {{",
                )
    try:
        config = text_format.Parse(text, model_config_module().ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryError(
            f"{name}/config.pbtxt:{error} is not a model configuration",
            hint="a template or a template_parameter is wrong; trtbuild plan shows the values",
        ) from error
    if config.name != name:
        raise RepositoryError(
            f"{name}/config.pbtxt: expected name {name!r}, got {config.name!r}",
            hint="please report this: a template ignores its variable name",
        )
    for tensors in (config.input, config.output):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            twice = sorted({tensor for tensor in names if names.count(tensor) > 1})
            raise RepositoryError(f"{name}/config.pbtxt: tensors named twice: {', '.join(twice)}", hint="rename one")
    return config


def check_ensemble(config: Any, configs: Mapping[str, Any]) -> None:
    """Check that an ensemble's steps name existing models and tensors of one type, and that each has a source."""
    types = {tensor.name: tensor.data_type for tensor in config.input}
    steps = list(config.ensemble_scheduling.step)
    for step in steps:
        target = configs.get(step.model_name)
        if target is None:
            raise _wiring(config.name, f"step model {step.model_name!r} is not in this repository")
        for theirs, ours in step.output_map.items():
            types[ours] = _tensor_type(config.name, target, "output", theirs)
    for step in steps:
        for theirs, ours in step.input_map.items():
            wanted = _tensor_type(config.name, configs[step.model_name], "input", theirs)
            if types.get(ours, wanted) != wanted or ours not in types:
                fault = "has another type" if ours in types else "comes from nowhere"
                raise _wiring(config.name, f"{step.model_name}.{theirs}: tensor {ours!r} {fault}")
        missing = {tensor.name for tensor in configs[step.model_name].input if not tensor.optional} - set(
            step.input_map
        )
        if missing:
            raise _wiring(config.name, f"{step.model_name} needs {', '.join(sorted(missing))}")
    if steps:
        for tensor in config.output:
            if types.get(tensor.name) != tensor.data_type:
                raise _wiring(config.name, f"no step makes output {tensor.name!r} with its type")


def _tensor_type(ensemble: str, config: Any, side: str, name: str) -> int:
    for tensor in getattr(config, side):
        if tensor.name == name:
            return int(tensor.data_type)
    raise _wiring(ensemble, f"{config.name} has no {side} {name!r}")


def _wiring(ensemble: str, fault: str) -> RepositoryError:
    return RepositoryError(
        f"{ensemble}/config.pbtxt: {fault}", hint="the engine model's template and the full layout do not fit together"
    )


@functools.cache
def model_config_module() -> ModuleType:
    """Return ``tritonclient.grpc.model_config_pb2`` without its package, which takes four times as long to import."""
    found = importlib.util.find_spec("tritonclient")
    for base in (found.submodule_search_locations or []) if found else []:
        path = Path(base) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("trtbuild_model_config_pb2", path)
        if path.is_file() and spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise RepositoryError(
        "the package tritonclient, which checks model configurations, is not installed",
        hint="pip install 'tritonclient[grpc]'",
    )
