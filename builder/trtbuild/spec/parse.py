"""Turn any mapping of options into the frozen spec: text and YAML become typed values, or an error names the option.

It does not look at the machine, the network or the environment, and it does not know which combinations a backend can
do (``plan`` asks the backend).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtbuild.errors import SpecError
from trtbuild.spec.option import Option
from trtbuild.spec.table import OPTIONS, OPTIONS_BY_NAME
from trtbuild.spec.values import EngineSpec, RepositorySpec, ServerSpec, Spec, StoreSpec

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*$", re.IGNORECASE)
_SERVED_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")


def closest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def parse_bytes(text: str) -> int:
    """Return bytes for ``512``, ``20GiB``, ``1.5 TB`` (``G`` and ``GiB`` are binary, ``GB`` decimal).

    Raises:
        ValueError: The text is not a size.
    """
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"expected a size such as 20GiB, got {text!r}")
    unit = (match[2] or "").lower()
    decimal = bool(unit) and not unit.endswith("i") and text.strip().lower().endswith("b")
    power = "kmgt".index(unit[0]) + 1 if unit else 0
    return int(float(match[1]) * (1000 if decimal else 1024) ** power)


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"expected true or false, got {text!r}")


def _parse_pairs(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        items = list(value.items())
    else:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
        items = [part.partition("=")[::2] if "=" in part else (part, None) for part in parts]
    pairs: dict[str, str] = {}
    for name, item in items:
        if not isinstance(name, str) or not name.strip() or item is None or isinstance(item, (list, dict)):
            raise ValueError(f"expected NAME=VALUE pairs, got {value!r}")
        pairs[name.strip()] = str(item).lower() if isinstance(item, bool) else str(item).strip()
    return dict(sorted(pairs.items()))


def _parse_words(option: Option, value: object) -> tuple[str, ...]:
    """Return the words of a list, each once, in their order, or in that of the option's choices where it has any."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    words = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    if option.kind == "words":
        return words
    for word in words:
        if word not in option.choices:
            raise ValueError(
                f"expected any of {', '.join(option.choices)}, got {word!r}{closest(word, option.choices)}"
            )
    return tuple(choice for choice in option.choices if choice in words)


def parse_value(option: Option, value: object) -> Any:
    """Return ``value`` (text or YAML) as the option's type.

    Raises:
        ValueError: With what was expected and what was seen.
    """
    if option.kind == "pairs":
        return _parse_pairs(value)
    if option.kind in {"choices", "words"} and not isinstance(value, dict):
        return _parse_words(option, value)
    if isinstance(value, (list, dict)):
        raise ValueError(f"expected one value, got {value!r}")
    if option.kind == "bool":
        return value if isinstance(value, bool) else _parse_bool(str(value))
    if option.kind == "bytes":
        return value if isinstance(value, int) and not isinstance(value, bool) else parse_bytes(str(value))
    if option.kind in {"int", "float"}:
        return _parse_number(option, value)
    text = str(value)
    if option.kind == "choice" and text not in option.choices:
        raise ValueError(f"expected one of {', '.join(option.choices)}, got {text!r}{closest(text, option.choices)}")
    if option.kind == "path":
        return Path(text).expanduser()
    if not text.strip():
        raise ValueError("expected a value, got an empty one")
    return text


def _parse_number(option: Option, value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        number: int | float = int(str(value)) if option.kind == "int" else float(str(value))
    except ValueError:
        kind = "a whole number" if option.kind == "int" else "a number"
        raise ValueError(f"expected {kind}, got {value!r}") from None
    if option.minimum is not None and not number >= option.minimum:
        raise ValueError(f"expected at least {option.minimum:g}, got {number}")
    if option.maximum is not None and not number <= option.maximum:
        raise ValueError(f"expected at most {option.maximum:g}, got {number}")
    return number


def parse_spec(values: Mapping[str, object], *, origins: Mapping[str, str] | None = None) -> Spec:
    """Return the frozen spec for option values by name.

    Args:
        values: Option name to raw value; absent or None means "default".
        origins: Where each value came from (``--dtype``, ``TRTBUILD_DTYPE``, ``engine.yaml line 3``), for messages.

    Raises:
        SpecError: Unknown name, illegal value, or no model.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("model", "engine", "repository", "store", "server")}
    for name, raw in values.items():
        option = OPTIONS_BY_NAME.get(name)
        where = (origins or {}).get(name, name)
        if option is None:
            known = [o.name for o in OPTIONS]
            raise SpecError(
                f"{where}: unknown option {name!r}{closest(name, known)}",
                hint="trtbuild --help lists every option; engine.yaml uses the same names with underscores",
            )
        if raw is None:
            continue
        try:
            sections[option.section][name] = parse_value(option, raw)
        except ValueError as error:
            raise SpecError(f"{where}: {error}", hint=f"{option.flag}: {option.help}") from None
    if "model" not in sections["model"]:
        raise SpecError(
            "no model was named",
            hint="trtbuild models lists the catalog; e.g. trtbuild llama-3-8b, or model: in engine.yaml",
        )
    served = sections["repository"].get("served_name")
    if served is not None and not _SERVED_NAME.match(served):
        raise SpecError(
            f"served_name: expected letters, digits, '_', '-' or '.', at most 128, got {served!r}",
            hint="pass another --name",
        )
    return Spec(
        engine=EngineSpec(**sections["model"], **sections["engine"]),
        repository=RepositorySpec(**sections["repository"]),
        store=StoreSpec(**sections["store"]),
        server=ServerSpec(**sections["server"]),
    )
