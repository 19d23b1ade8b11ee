"""The command line: the only place that reads the environment and arguments. How it ends is ``console.frame``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from trtbuild.console import frame


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``trtbuild`` and exit with a documented code (see ``errors.EXIT_CODE_MEANINGS``)."""
    frame.main(PROGRAM, argv)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    return frame.run(PROGRAM, arguments)


def _configure_log(arguments: Sequence[str]) -> None:
    """Make the sink that ``arguments`` ask for; the init container of a pod writes JSON."""
    from trtbuild.cli.options import configure_log

    asked = frame.asked_log_format(arguments, os.environ.get("TRTBUILD_LOG_FORMAT"))
    if asked == "auto" and arguments[:1] == ["init"]:
        asked = "json"
    configure_log(asked, "info")


def _option_words() -> set[str]:
    """Return the options that may stand in front of MODEL, where no command does."""
    from trtbuild.spec import OPTIONS

    return {flag for option in OPTIONS for flag in (option.flag, *option.flags)}


PROGRAM = frame.Program(
    name="trtbuild", app="trtbuild.cli.app:app", configure_log=_configure_log, first_words=_option_words
)
