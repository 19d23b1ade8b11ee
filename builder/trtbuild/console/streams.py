"""The standard streams as we were given them: closed, full, in another alphabet, without colours."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO, cast


def harden_streams() -> None:
    """Keep odd standard streams from ending a run: a closed one becomes /dev/null, what it cannot show is escaped.

    Names of files that are no UTF-8 text leave as the bytes they came as.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us; its number must not become that of a file of ours
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_WRONLY)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif name == "stdout":
            is_utf8 = stream.encoding.lower() in {"utf-8", "utf8"}
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def redact_streams(*names: str) -> None:
    """Mask secrets in all that is written as text to these streams of ``sys``, whoever writes it.

    The last net behind the log and the rendering of errors: a table, a library's warning, Python's own traceback.
    """
    for name in names:
        setattr(sys, name, cast(TextIO, _RedactedStream(getattr(sys, name))))


class _RedactedStream:
    """A text stream whose text passes the redactor; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        from trtbuild import redact

        self._stream = stream
        self._mask = redact.text

    def write(self, text: str) -> int:
        """Write ``text`` without its secrets; as many characters as were given count as written."""
        self._stream.write(self._mask(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write every one of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def finish(code: int) -> int:
    """Write out what standard output still holds; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError:  # reported before; Python would complain once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def is_plain() -> bool:
    """Return whether the user wants no colours. Source: no-color.org; TERM=dumb knows none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
