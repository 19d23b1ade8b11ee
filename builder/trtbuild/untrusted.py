"""Read what others wrote: the JSON of models, within bounds, and its fields, with errors that name them.

It decides how large a file may be, what a number may be and which links are followed. It does not know what a field
means; whoever asks for it does.
"""

from __future__ import annotations

import errno
import json
import math
import os
import reprlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trtbuild.errors import FetchError

CONFIG_LIMIT_BYTES = 8 << 20
"""Largest ``config.json`` that is read; published ones have some kilobytes, with long label tables a megabyte."""

INDEX_LIMIT_BYTES = 64 << 20
"""Largest index of shards; about 100 bytes per tensor, and the largest mixtures of experts have 100,000."""

HEADER_LIMIT_BYTES = 16 << 20
"""Largest header of a safetensors file; the format allows 100 MB, which parses to gigabytes; published ones have 5."""

METADATA_LIMIT_BYTES = 128 << 20
"""Largest tokenizer or other file that is not weights; published ones have up to 35 MB."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-lfs left in the place of a large one."""

SIZE_LIMIT = (1 << 31) - 1
"""Largest size: engines count in 32 bits, and products of sizes stay within what arithmetic with fractions can hold."""

_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 80, 40, 80
_SHORT.maxdict, _SHORT.maxlist, _SHORT.maxlevel = 3, 3, 2

_HINT = "the file is damaged or not a model's; download the model again"


def parse(text: bytes | str, *, unique: bool = False) -> Any:
    """Return parsed JSON.

    Args:
        text: The text; bytes are UTF-8.
        unique: Refuse objects that hold a name twice, of which parsers keep different ones.

    Raises:
        ValueError: It is no JSON, or nested too deeply to be anything's configuration.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(path: Path, limit_bytes: int) -> Any:
    """Return the parsed JSON of a file; one that is too large is not read.

    Raises:
        OSError: It is not there or cannot be read.
        ValueError: It is no regular file, too large, or no JSON.
    """
    return parse(read_bytes(path, limit_bytes))


def read_bytes(path: Path, limit_bytes: int, *, follow_links: bool = True) -> bytes:
    """Return what a file holds; one that is too large is not read, and no pipe is waited for.

    Raises:
        OSError: It is not there or cannot be read.
        ValueError: It is no regular file (a link is none where links are not followed), or too large.
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if follow_links or error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise
        raise ValueError("expected a regular file") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueError("expected a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        if found.st_size > limit_bytes:
            raise ValueError(f"it has {found.st_size:,} bytes, expected at most {limit_bytes:,}")
        # A byte more than it has now, not the limit: a buffer of that size would be made first.
        data = stream.read(found.st_size + 1)
        if len(data) > found.st_size:  # it grew meanwhile
            data += stream.read(max(0, limit_bytes + 1 - len(data)))
    if len(data) > limit_bytes:
        raise ValueError(f"it has more than {limit_bytes:,} bytes, which is the most that is expected")
    return data


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds {shown(name)} twice")
        found[name] = value
    return found


def shown(value: object) -> str:
    """Return a value for a message: its representation, cut to a line, control characters escaped."""
    return _SHORT.repr(value)


def outward_links(directory: Path) -> list[str]:
    """Return the links at the top of a model's directory that lead out of it, as ``name -> target``, sorted.

    The snapshots of a Hugging Face cache are links into the ``blobs`` beside them; those do not count, and neither do
    weights, which are linked from larger disks and whose bytes are checked. Whatever else is linked would be copied to
    where the engine is kept and served.
    """
    allowed = [directory.resolve()]
    if directory.absolute().parent.name == "snapshots":
        allowed.append((directory.absolute().parents[1] / "blobs").resolve())
    found = []
    for path in directory.iterdir():
        if path.is_symlink() and path.suffix not in {".safetensors", ".bin"}:
            target = Path(os.path.realpath(path))
            if not any(target.is_relative_to(root) for root in allowed):
                found.append(f"{path.name} -> {target}")
    return sorted(found)


class Fields:
    """The fields of a JSON object, with errors that name the file, the field and what was expected."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self._where = where
        self._values = values

    def refusal(self, name: str, expected: str) -> FetchError:
        """Return the error for a field that is not as it must be."""
        return FetchError(f"{self._where}: {name}: expected {expected}, got {shown(self._values[name])}", hint=_HINT)

    def size(self, *names: str, default: int | None = None, limit: int = SIZE_LIMIT) -> int:
        """Return the first of ``names`` that is set, as a positive whole number up to ``limit``.

        Raises:
            FetchError: It is something else, or none is set and there is no default.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise self.refusal(name, "a positive whole number")
            if value > limit:
                raise self.refusal(name, f"a whole number up to {limit:,}")
            return value
        if default is None:
            raise FetchError(
                f"{self._where} has none of {', '.join(names)}",
                hint=f"add {names[0]} to it, with the value of the original model",
            )
        return default

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive finite number.

        Raises:
            FetchError: It is something else, or not set and there is no default.
        """
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise FetchError(f"{self._where} has no {name}", hint=_HINT)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.refusal(name, "a positive number")
        if value > SIZE_LIMIT:
            raise self.refusal(name, f"a number up to {SIZE_LIMIT:,}")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Return a list of exactly ``count`` positive finite numbers.

        Raises:
            FetchError: It is something else.
        """
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) != count:
            found = f"{len(value)} values" if isinstance(value, list) else shown(value)
            raise FetchError(f"{self._where}: {name}: expected a list of {count} numbers, got {found}", hint=_HINT)
        return tuple(Fields(f"{self._where}: {name}", {"value": each}).number("value") for each in value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false.

        Raises:
            FetchError: It is something else: the text "false", taken for what Python makes of it, would be true.
        """
        value = self._values.get(name)
        if value is None:
            return default
        if value not in (True, False):  # also 0 and 1
            raise self.refusal(name, "true or false")
        return bool(value)

    def text(self, name: str) -> str:
        """Return a text field, or "" when it is absent or of another type."""
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def object(self, name: str) -> Mapping[str, Any]:
        """Return an object field, or an empty one when it is absent or null.

        Raises:
            FetchError: It is something else.
        """
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.refusal(name, "an object")
        return value
