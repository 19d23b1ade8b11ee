"""Whether a model can be served from its tokenizer files: asked before its weights are downloaded and built.

It decides with the tokenizers library where that is installed, else by the file's shape; chat templates are compiled
by the very program that renders them in the server, in a process with bounded time and memory.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtbuild import process, untrusted
from trtbuild.errors import FetchError

_NAME = "tokenizer.json"
_OTHERS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SHARED = Path(__file__).resolve().parents[1] / "_templates" / "_shared"
_COMPILE_TIMEOUT_S = 30.0
_CONVERT = (
    "with transformers, AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY) writes one; "
    "copy the model's other files there too and build from DIRECTORY"
)


def check_tokenizer_names(where: str, names: Iterable[str]) -> None:
    """Refuse a model that has no ``tokenizer.json``, by its listing.

    Raises:
        FetchError: It has none.
    """
    known = set(names)
    if _NAME in known:
        return
    others = [name for name in _OTHERS if name in known]
    others += sorted(name for name in known if name.endswith(".tiktoken"))[:1]
    there = f"; it has {', '.join(others)}" if others else ", nor a tokenizer of another kind"
    raise FetchError(
        f"{where} has no {_NAME}, which the server needs{there}",
        hint=_CONVERT if others else "choose a repository that comes with its tokenizer, or copy that one's files",
    )


def check_tokenizer(directory: Path) -> None:
    """Refuse a model whose ``tokenizer.json`` nobody can read.

    Raises:
        FetchError: There is none, or it is empty, a git-lfs pointer, damaged, or of a kind that is not known here.
    """
    check_tokenizer_names(str(directory), [entry.name for entry in directory.iterdir()])
    path = directory / _NAME
    try:
        data = untrusted.read_bytes(path, untrusted.METADATA_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise FetchError(f"{path} cannot be read: {error}", hint="download or copy the model again") from error
    if not data.strip():
        raise FetchError(f"{path} is empty", hint="download or copy the model again")
    if data.startswith(untrusted.LFS_POINTER):
        raise FetchError(
            f"{path} is a git-lfs pointer, not the file itself", hint="run `git lfs pull` in the model's directory"
        )
    reason = _unreadable(data)
    if not reason:
        reason = _unreadable(json.dumps(_whole(directory)).encode())
    if reason:
        raise FetchError(
            f"{path} is not a tokenizer that can be served: {reason}",
            hint=f"download or copy the model again; if it is whole, it is of another version: {_CONVERT}",
        )


def write_whole_tokenizer(directory: Path, target: Path) -> None:
    """Write one tokenizer.json with all that the files beside it in a model's directory add to it.

    Raises:
        FetchError: They say different things of a token, or hold none.
    """
    whole = _whole(directory)
    (target / _NAME).write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")


def _whole(directory: Path) -> dict[str, Any]:
    """Return the tokenizer as the server puts it together, with that program's own code."""
    front = _front_module("whole_tokenizer")
    names = (_NAME, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    objects = []
    for name in names:
        try:
            value = untrusted.read(directory / name, untrusted.METADATA_LIMIT_BYTES)
        except FileNotFoundError:
            value = {}
        except (OSError, ValueError) as error:
            raise FetchError(f"{directory / name} cannot be read: {error}", hint="copy the model again") from error
        if not isinstance(value, dict):
            raise FetchError(f"{directory / name} is not a JSON object", hint="copy the model again")
        objects.append(value)
    try:
        return dict(front.whole_tokenizer(*objects, is_strict=True))
    except front.TokenizerFilesError as error:
        raise FetchError(
            f"{directory}: the files of the tokenizer disagree: {error}",
            hint="save the tokenizer again with transformers (AutoTokenizer, save_pretrained), and build from that",
        ) from error


def _front_module(name: str) -> Any:
    """Return a module of the front model that needs nothing but the standard library."""
    spec = importlib.util.spec_from_file_location(
        f"trtbuild_front_{name}", _SHARED / "trtbuild_front" / "text" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unreadable(data: bytes) -> str:
    """Return why a tokenizer cannot be loaded, or ""."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return _misshapen(data)
    try:
        Tokenizer.from_buffer(data)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001  the library raises bare Exception, and panics past it
        return f"{_misshapen(data) or error} (tokenizers {_version()})"
    return ""


def _version() -> str:
    import tokenizers

    return str(tokenizers.__version__)


def _misshapen(data: bytes) -> str:
    try:
        value: Any = untrusted.parse(data)
    except (ValueError, UnicodeDecodeError) as error:
        return f"it is not JSON ({error})"
    model = value.get("model") if isinstance(value, dict) else None
    return "" if isinstance(model, dict) and model.get("vocab") else "it holds no model with a vocabulary"


def template_fault(directory: Path) -> str:
    """Return why conversations could not be rendered with a model's chat template, or "".

    The template is compiled where it is compiled in the server: compiling evaluates constants, which may take for ever.
    """
    import jinja2
    import markupsafe

    modules = {str(Path(module.__file__ or "").resolve().parents[1]) for module in (jinja2, markupsafe)}
    renderer = _SHARED / "trtbuild_front" / "text" / "renderer.py"
    argv = (sys.executable, "-I", "-S", "-B", str(renderer), "--check", str(directory), str(_SHARED), *sorted(modules))
    try:
        done = process.run(process.Command(argv=argv), timeout_s=_COMPILE_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        return f"it could not be compiled: {error}"
    if done.exit_code == 0:
        return ""
    if done.exit_code != 1 or not done.tail:
        return f"compiling it takes too long or too much memory (exit status {done.exit_code})"
    try:
        return str(json.loads(done.tail[-1])["fault"])
    except (ValueError, LookupError, TypeError):
        return f"it could not be compiled: {done.tail[-1]}"
