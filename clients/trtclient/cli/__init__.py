"""The command line: the only reader of arguments and the environment. How it ends is ``trtbuild.console.frame``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from trtbuild.console import frame


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtclient`` and exit: 0, a code of ``trtbuild.errors``, or 10 for a run with an unwanted result."""
    frame.main(PROGRAM, argv)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    return frame.run(PROGRAM, arguments)


def _configure_log(arguments: Sequence[str]) -> None:
    """Make the sink that ``arguments`` ask for."""
    from trtclient.cli.options import configure_log

    configure_log(frame.asked_log_format(arguments, os.environ.get("TRTCLIENT_LOG_FORMAT")))


PROGRAM = frame.Program(
    name="trtclient", app="trtclient.cli.app:app", configure_log=_configure_log, is_stdout_data=True
)
