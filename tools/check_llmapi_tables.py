"""Compare the catalog's tables of the LLM API with upstream's own registrations; used by check_trtllm_tables.py.

The source is parsed, never imported. Both directions are printed: what the table has and the source does not would fail
after the download of a whole model; what the source has and the table does not is refused without need.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from trtbuild import catalog
from trtbuild.catalog.llmapi import samplers
from trtbuild.catalog.versions import applies

MODELS = Path("tensorrt_llm/_torch/models")
NO_CHAT = re.compile(
    r"^(BertFor|CLIPVision|PixtralVision|SiglipVision|HCXVisionModel|EAGLE3|Eagle3|MTPDraft|T5For|M?BartFor|Whisper)"
    r"|(SequenceClassification|RewardModel|TextEmbedding|EagleForCausalLM|AssistantForCausalLM)$"
)
"""What upstream registers besides models that continue a text: encoders, classifiers, drafts of speculation."""


def registered(source: Path) -> frozenset[str]:
    """Return the architectures that the PyTorch backend registers.

    Each is the argument of a decorator ``@register_auto_model("...")`` on a class of ``modeling_*.py``.
    """
    found = set()
    for path in sorted((source / MODELS).glob("modeling_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register_auto_model":
                    found |= {item.value for item in call.args if isinstance(item, ast.Constant)}
    return frozenset(str(name) for name in found)


def served_by_name(source: Path) -> frozenset[str]:
    """Return every name in ``modeling_auto.py``, which serves some classes by others."""
    path = source / MODELS / "modeling_auto.py"
    return _strings(path) if path.is_file() else frozenset()


def cache_dtypes(source: Path) -> frozenset[str]:
    """Return the types of key/value cache that the PyTorch executor takes: its ``_VALID_KV_CACHE_DTYPES``."""
    for path in sorted((source / "tensorrt_llm/_torch/pyexecutor").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and any(
                getattr(target, "id", "") == "_VALID_KV_CACHE_DTYPES" for target in node.targets
            ):
                return frozenset(str(value) for value in ast.literal_eval(node.value))
    return frozenset()


def _strings(*paths: Path) -> frozenset[str]:
    """Return every string in Python files."""
    return frozenset(
        node.value
        for path in paths
        if path.is_file()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _fields(path: Path) -> frozenset[str]:
    """Return the names of the annotated fields of every class in a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return frozenset(
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )


def check_llm_api(version: str, source: Path) -> Iterator[str]:
    """Yield every difference between the tables of the LLM API and a source tree of the same version."""
    if not (source / MODELS).is_dir():
        yield f"llmapi: {MODELS} is not in the source"
        return
    api, real = catalog.llm_api(version), registered(source)
    for name in sorted(api.architectures - real - served_by_name(source)):
        yield f"llmapi: {name} is in the table, not in the source"
    for name in sorted(real - api.architectures):
        if not NO_CHAT.search(name):
            yield f"llmapi: {name} is in the source, not in the table"
    read = _strings(source / "tensorrt_llm/_torch/model_config.py", source / "tensorrt_llm/llmapi/llm_utils.py")
    for method, entry in sorted(api.quantizations.items()):
        if str(entry.get("file", method)) not in read:
            yield f"llmapi: weights quantized by {method} are in the table, not in model_config.py"
    dtypes = cache_dtypes(source)
    for name in sorted(set(api.kv_cache_dtypes) ^ dtypes):
        where = "source, not in the table" if name in dtypes else "table, not in the source"
        yield f"llmapi: the cache type {name} is in the {where}"
    arguments = source / "tensorrt_llm/llmapi/llm_args.py"
    for row in samplers():
        if applies({"since": row["since"], "until": row["until"] or None}, version):
            for name in sorted(set(row["arguments"]) - _fields(arguments)):
                yield f"llmapi: the sampler's argument {name} is in the table, not in llm_args.py"
