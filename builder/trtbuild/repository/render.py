"""Render a repository: names of its models, variables of their templates, files of their directories. In memory.

It does not know engines: a backend says how its engine model is rendered (:class:`trtbuild.plan.EngineTemplate`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.errors import RepositoryError
from trtbuild.plan import EngineInfo, EngineTemplate
from trtbuild.repository.check import check_ensemble, check_tokenizer, model_config_module, parse_config
from trtbuild.repository.files import RECORD, Files, Record, files_below
from trtbuild.spec import JsonValue

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).resolve().parents[1] / "_templates"
DEFAULT_MAX_TOKENS = 16
"""Tokens generated when a request with ``text_input`` does not say; as in OpenAI's completions endpoint."""

_SHARED = "_shared"
_SHARED_IMPORT = re.compile(rb"^(?:from|import) (trtbuild_\w+)", re.MULTILINE)
_ENGINE = "tensorrt_llm"
_FULL = ("preprocessing", "postprocessing", "ensemble", "tensorrt_llm_bls")
_LIKE_FRONT = frozenset({"tensorrt_llm_bls"})


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a served model comes from, as its clients may ask.

    Attributes:
        model_id: On Hugging Face, or ``local/<directory name>``.
        revision: The model's commit.
        engine_key: The engine's whole key.
        built_at: When the engine was published, in seconds since 1970.
    """

    model_id: str = ""
    revision: str = ""
    engine_key: str = ""
    built_at: int = 0


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One engine as clients see it.

    Attributes:
        served_name: Name of the front model.
        engine_template: How its engine model is rendered.
        engine_info: The engine's limits.
        tokenizer_dir: Directory with ``tokenizer.json`` and its companions.
        layout: ``minimal``, or ``full`` for the models of NVIDIA's own templates beside the front.
        decoupled: Whether the models that take text may stream; without it each request has exactly one response.
        max_queue_size: Requests that may wait before new ones are refused; 0 for no limit.
        origin: Where it comes from.
    """

    served_name: str
    engine_template: EngineTemplate
    engine_info: EngineInfo
    tokenizer_dir: Path
    layout: str = "minimal"
    decoupled: bool = True
    max_queue_size: int = 0
    origin: Origin = Origin()


def render_repository(
    models: Sequence[ServedModel], *, kept: tuple[Record, Files] | None = None
) -> tuple[Record, Files]:
    """Return the checked contents of a repository that serves ``models`` and, under other names, what was ``kept``.

    Raises:
        RepositoryError: A template, a name or a tensor is wrong.
    """
    served = [model.served_name for model in models]
    if len(set(served)) != len(served):
        raise RepositoryError(f"served names must differ, got {', '.join(served)}", hint="pass --name for one of them")
    old_record, old_files = kept or ({}, {})
    record: Record = {name: directories for name, directories in old_record.items() if name not in served}
    owned = {directory for directories in record.values() for directory in directories}
    files = {path: data for path, data in old_files.items() if path.split("/", 1)[0] in owned}
    for model in models:
        names = _model_names(model, owned)
        rendered = _render_model(model, names)
        files.update(rendered)
        record[model.served_name] = sorted(set(names.values()))
        owned |= set(names.values())
    files[RECORD] = (json.dumps({"served": record}, indent=1, sort_keys=True) + "\n").encode()
    return dict(sorted(record.items())), dict(sorted(files.items()))


def _model_names(model: ServedModel, taken: set[str]) -> dict[str, str]:
    """Return the repository's name of every template of a model; later models get their served name as a prefix."""
    inner = [_ENGINE, *(_FULL if model.layout == "full" else ())]
    if model.served_name in inner or model.served_name in taken:
        raise RepositoryError(
            f"served name {model.served_name!r} is the name of another model of this repository",
            hint="pass another --name",
        )
    names = {name: name for name in inner}
    if taken & set(inner):
        names = {name: f"{model.served_name}-{name}" for name in inner}
        if clash := taken & set(names.values()):
            raise RepositoryError(f"model name {min(clash)!r} is taken in this repository", hint="pass another --name")
    return {"front": model.served_name, **names}


def _render_model(model: ServedModel, names: Mapping[str, str]) -> Files:
    """Return the files of one served model's directories, each config parsed and the ensemble's wiring checked."""
    check_tokenizer(model.tokenizer_dir)
    # The ensemble calls the engine model inside the server, and nothing of ours is in its requests.
    is_open = model.layout == "full"
    engine_variables = {**_engine_variables(model), "name": names[_ENGINE], "allow_direct_requests": is_open}
    files = render_directory(model.engine_template.directory, names[_ENGINE], engine_variables)
    engine = parse_config(files, names[_ENGINE])
    variables = _front_variables(model, names, engine)
    configs = {names[_ENGINE]: engine}
    for template, name in names.items():
        if template == _ENGINE:
            continue
        # Triton's ensembles are decoupled when a step is, and the engine always streams.
        source = "tensorrt_llm_bls" if template == "ensemble" and not model.decoupled else template
        files.update(render_directory(source, name, {**variables, "name": name, "template": template}))
        configs[name] = parse_config(files, name)
    for config in configs.values():
        check_ensemble(config, configs)
    return files


def _engine_variables(model: ServedModel) -> dict[str, JsonValue]:
    """Return the variables of the engine's template; in the full layout whole answers begin with the prompt.

    That is upstream's default, and its clients cut the prompt off. Streams never begin with it, so the front model,
    which always streams, sees no difference.
    """
    variables = dict(model.engine_template.variables)
    parameters = variables.get("parameters")
    if model.layout == "full" and isinstance(parameters, list):
        others = [pair for pair in parameters if isinstance(pair, list) and pair[0] != "exclude_input_in_output"]
        variables["parameters"] = [*others, ["exclude_input_in_output", "false"]]
    return variables


def _front_variables(model: ServedModel, names: Mapping[str, str], engine: Any) -> dict[str, JsonValue]:
    """Return what the templates of this package need to know of the engine, its limits and its own configuration."""
    info = model.engine_info
    parameters = {
        "engine_model": names[_ENGINE],
        "engine_inputs": ",".join(sorted(tensor.name for tensor in engine.input)),
        "engine_outputs": ",".join(sorted(tensor.name for tensor in engine.output)),
        "engine_has_batch_dimension": "true" if engine.max_batch_size > 0 else "false",
        "tokenizer_dir": str(model.tokenizer_dir),
        "slots": str(info.slots),
        "max_queue_size": str(model.max_queue_size),
        "max_input_len": str(info.max_input_len),
        "max_seq_len": str(info.max_seq_len),
        "default_max_tokens": str(DEFAULT_MAX_TOKENS),
        # NVIDIA's C++ backend cannot look at who asks; parameters it does not know stay away from it.
        "engine_knows_front": "true" if engine.backend == "python" and model.layout != "full" else "false",
    }
    return {
        "parameters": [list(pair) for pair in parameters.items()],
        "origin": {
            "model_id": model.origin.model_id,
            "model_revision": model.origin.revision,
            "engine_key": model.origin.engine_key,
            "built_at": str(model.origin.built_at),
        },
        "models": dict(names),
        "engine_batch_size": engine.max_batch_size,
        "engine_inputs": _tensors(engine.input),
        "engine_outputs": _tensors(engine.output),
        "upstream_inputs": _upstream_inputs(),
        "decoupled": model.decoupled,
        "tokenizer_dir": str(model.tokenizer_dir),
        "max_input_len": str(info.max_input_len),
    }


@functools.cache
def _upstream_inputs() -> dict[str, JsonValue]:
    """Return the inputs of TensorRT-LLM's own models by name, from the table that the models check requests with."""
    document = json.loads((TEMPLATES / _SHARED / "trtbuild_front" / "upstream_inputs.json").read_text(encoding="utf-8"))
    inputs: dict[str, JsonValue] = document["inputs"]
    return inputs


def _tensors(tensors: Any) -> dict[str, JsonValue]:
    """Return type and dims of a configuration's tensors by name."""
    names = model_config_module().DataType
    return {tensor.name: {"type": names.Name(tensor.data_type), "dims": list(tensor.dims)} for tensor in tensors}


def quote_pbtxt(value: object) -> str:
    """Return ``value`` as a quoted string of protobuf's text format."""
    out = ['"']
    for byte in str(value).encode():
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 0x20 <= byte < 0x7F:
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return "".join(out) + '"'


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    # No HTML comes out of these; strings go through quote_pbtxt. The loader is for what several templates include.
    environment = jinja2.Environment(  # noqa: S701
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, loader=jinja2.FileSystemLoader(TEMPLATES)
    )
    environment.filters["pbtxt"] = quote_pbtxt
    return environment


def render_directory(template: str, name: str, variables: Mapping[str, JsonValue]) -> Files:
    """Return the files of one model directory; ``*.j2`` rendered, all others as they are."""
    import jinja2

    source = TEMPLATES / template
    if not (source / "config.pbtxt.j2").is_file():
        raise RepositoryError(f"there is no template {template!r} in {TEMPLATES}", hint="reinstall trtbuild")
    files: Files = {}
    for path in files_below(source):
        relative = path.relative_to(source).as_posix()
        if path.suffix != ".j2":
            files[f"{name}/{relative}"] = path.read_bytes()
            continue
        try:
            text = _environment().from_string(path.read_text(encoding="utf-8")).render(variables)
        except jinja2.TemplateError as error:
            raise RepositoryError(
                f"template {template}/{relative} cannot be rendered: {error}",
                hint="please report this: a variable of the template was not given",
            ) from error
        files[f"{name}/{relative.removesuffix('.j2')}"] = text.encode()
    if template in _LIKE_FRONT:
        files[f"{name}/1/model.py"] = (TEMPLATES / "front/1/model.py").read_bytes()
    files.update(_shared_files(name, files))
    if not any(path.startswith(f"{name}/1/") for path in files):
        files[f"{name}/1/"] = b""  # the server wants a version directory, even an empty one
    return files


def _shared_files(name: str, files: Files) -> Files:
    """Return what a model's Python files import from ``_shared``, and what that imports, beside the model's own.

    A package is copied with all its files, such as tables and web pages; only Python files import.

    Copied, so that a repository is whole wherever it is carried, and each model loads what it was written with.
    """
    shared = TEMPLATES / _SHARED
    found: Files = {}
    unread = [data for path, data in files.items() if path.endswith(".py")]
    seen: set[bytes] = set()
    while unread:
        for name_of_part in sorted(set(_SHARED_IMPORT.findall(unread.pop())) - seen):
            seen.add(name_of_part)
            part = shared / name_of_part.decode()
            paths = files_below(part) if part.is_dir() else [part.with_suffix(".py")]
            for path in paths:
                target = f"{name}/1/{path.relative_to(shared).as_posix()}"
                if target not in found:
                    found[target] = path.read_bytes()
                    if path.suffix == ".py":
                        unread.append(found[target])
    return found
