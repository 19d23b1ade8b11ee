"""Where option values come from: flag > TRTBUILD_* > engine.yaml > default, met here and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from trtbuild.errors import SpecError
from trtbuild.spec import OPTIONS_BY_NAME, Spec, closest, parse_spec

RESERVED = (
    "TRTBUILD_CONFIG", "TRTBUILD_ENGINE_SECRET", "TRTBUILD_GRPC_ENDPOINT", "TRTBUILD_IMAGE", "TRTBUILD_LOG_FORMAT",
    "TRTBUILD_LOG_LEVEL", "TRTBUILD_OPENAI", "TRTBUILD_PYTHON", "TRTBUILD_TRTLLM_EXAMPLES",
)  # fmt: skip
"""Variables with our prefix that are not options of an engine."""

# Kubernetes adds <SERVICE>_PORT and the like for every Service of the namespace; one named "trtbuild" is no typo.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


def load_spec(
    flags: Mapping[str, object], config: Path | None, environ: Mapping[str, str], *, default_model: str | None = None
) -> Spec:
    """Return the spec made of flags, environment and file.

    Args:
        flags: Option name to value as given on the command line; None or an empty tuple means not given.
        config: Path of an engine.yaml, or None for ``TRTBUILD_CONFIG`` (when set).
        environ: The process environment.
        default_model: Model when none of them names one; None makes that an error.

    Raises:
        SpecError: Unreadable file, unknown key or variable, illegal value.
    """
    values: dict[str, object] = {"model": default_model}
    origins: dict[str, str] = {}
    path = config or (Path(environ["TRTBUILD_CONFIG"]) if environ.get("TRTBUILD_CONFIG") else None)
    if path is not None:
        for name, (value, line) in read_engine_yaml(path).items():
            values[name], origins[name] = value, f"{path} line {line}"
    for name, value in read_environment(environ).items():
        values[name], origins[name] = value, OPTIONS_BY_NAME[name].env
    for name, value in flags.items():
        if value is not None and value != ():
            values[name], origins[name] = value, OPTIONS_BY_NAME[name].flag
    return parse_spec(values, origins=origins)


def read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the options set by ``TRTBUILD_*`` variables.

    Raises:
        SpecError: A variable with our prefix is no option (a typo would otherwise be silently ignored).
    """
    known = {option.env: name for name, option in OPTIONS_BY_NAME.items()}
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith("TRTBUILD_") or variable in RESERVED or variable.startswith("TRTBUILD_TEST_"):
            continue
        if _SERVICE_LINK.search(variable) and (variable not in known or re.match(r"^(tcp|udp|sctp)://", value)):
            continue
        if variable not in known:
            raise SpecError(
                f"unknown environment variable {variable}{closest(variable, [*known, *RESERVED])}",
                hint="unset it, or spell it as in trtbuild build --help",
            )
        if value != "":
            found[known[variable]] = value
    return found


def read_engine_yaml(path: Path) -> dict[str, tuple[object, int]]:
    """Return name -> (value, line) of an engine.yaml; values as YAML types.

    Raises:
        SpecError: No such file, not YAML, not a mapping, or a key given twice.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(
            f"cannot read {path}: {reason}", hint="pass the path of an engine.yaml with --config"
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise SpecError(
                f"{path}: expected a mapping of options, got a {_kind(root)}", hint="e.g.  model: llama-3-8b"
            )
        found: dict[str, tuple[object, int]] = {}
        loader = yaml.SafeLoader(text)
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(
                    f"{path} line {line}: expected the name of an option, got a {_kind(key_node)}",
                    hint="e.g.  model: llama-3-8b",
                )
            name = str(key_node.value)
            if name in found:
                raise SpecError(f"{path} line {line}: {name!r} is given twice", hint="keep one of the two")
            if name not in OPTIONS_BY_NAME:
                spelled = name.replace("-", "_")
                raise SpecError(
                    f"{path} line {line}: unknown option {name!r}{closest(spelled, list(OPTIONS_BY_NAME))}",
                    hint="the options are those of trtbuild build --help, with underscores",
                )
            found[name] = (loader.construct_object(value_node, deep=True), line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        what = " ".join(word for word in (error.context, error.problem) if word)
        raise SpecError(f"{path}{where} is not YAML: {what}", hint="correct it there, or on the line before") from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}", hint="remove what is named") from error
    return found


def _kind(node: object) -> str:
    """Return what a YAML node is, for messages: ``scalar``, ``sequence`` or ``mapping``."""
    return type(node).__name__.removesuffix("Node").lower()


def default_store(environ: Mapping[str, str]) -> Path:
    """Return the default root of the engine store."""
    return _user_cache(environ, "--store") / "trtbuild"


def default_hf_cache(environ: Mapping[str, str]) -> Path:
    """Return the Hugging Face cache that every other tool uses, too.

    Raises:
        SpecError: The environment names none, and there is no home directory to put it in.
    """
    from trtbuild.fetch import cache_directory

    if not any(environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")):
        _user_cache(environ, "--hf-cache")
    return cache_directory(environ)


def _user_cache(environ: Mapping[str, str], flag: str) -> Path:
    """Return the user's cache directory.

    Raises:
        SpecError: There is none; a relative path named ``~`` would be made in the working directory otherwise.
    """
    base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - HOME may be unset
    if base.startswith("~"):
        raise SpecError(
            f"no default for {flag}: HOME is not set and user id {os.geteuid()} has no home directory",
            hint=f"pass {flag} DIRECTORY, or set HOME",
        )
    return Path(base)
