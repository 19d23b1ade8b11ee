"""The tree of errors users meet, each with a stable exit code and the next command to type.

It decides exit codes and the parts of an error. It does not print: only ``trtbuild.console`` renders errors.
"""

from __future__ import annotations

from typing import ClassVar, Self


class TrtBuildError(Exception):
    """What went wrong, in words for the person who typed the command.

    Attributes:
        exit_code: Stable process exit code of this class of error.
        stage: The pipeline stage that failed, as shown in JSON log lines.
        hint: What to do or type next; never empty in our own code.
        log_tail: Last lines of a failed child process, shown under the message.
    """

    exit_code: ClassVar[int] = 1
    stage: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "", log_tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log_tail = log_tail

    def with_figures(self, figures: str) -> Self:
        """Return the same error with more at the end of its message."""
        return type(self)(self.message + figures, hint=self.hint, log_tail=self.log_tail)


class SpecError(TrtBuildError):
    """The request itself is wrong: unknown option, impossible combination, unreadable engine.yaml."""

    exit_code = 2
    stage = "spec"


class HostError(TrtBuildError):
    """This machine cannot do it: no GPU of the kind, missing tool or package, too little memory."""

    exit_code = 3
    stage = "host"


class FetchError(TrtBuildError):
    """The model's files could not be had, or are no good: gated, not found, no network, disk full, damaged, incomplete.

    Whichever file of a model is damaged, and whoever finds out, it is this error: what helps is another copy.
    """

    exit_code = 4
    stage = "fetch"


class ConvertError(TrtBuildError):
    """Checkpoint conversion or quantization failed."""

    exit_code = 5
    stage = "convert"


class BuildError(TrtBuildError):
    """The engine compiler failed or left an incomplete engine."""

    exit_code = 6
    stage = "build"


class StoreError(TrtBuildError):
    """The engine store cannot be read, written or trusted."""

    exit_code = 7
    stage = "store"


class RepositoryError(TrtBuildError):
    """The Triton model repository could not be rendered, checked or written."""

    exit_code = 8
    stage = "repository"


class LaunchError(TrtBuildError):
    """The server could not be found, prepared or started, or it did not become healthy."""

    exit_code = 9
    stage = "launch"


EXIT_CODE_MEANINGS: dict[int, str] = {
    0: "success",
    1: "a bug in trtbuild; please report it with the traceback",
    2: "the request is wrong (options, engine.yaml, environment)",
    3: "this machine cannot do it (GPU, tool, package, memory)",
    4: "the model could not be downloaded, or a file of it is damaged or missing",
    5: "checkpoint conversion or quantization failed",
    6: "the engine build failed",
    7: "the engine store failed",
    8: "the model repository could not be written",
    9: "the server could not be started or is not healthy",
    130: "interrupted (SIGINT)",
    143: "terminated (SIGTERM)",
}
"""Every exit code the command line returns, as documented in the reference."""
