"""A conversation in the terminal: reads lines, streams answers, keeps the history.

It decides what the terminal shows. The chat template is the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TextIO

import click

from trtbuild.errors import LaunchError
from trtclient.errors import EXIT_UNMET, RequestFailure
from trtclient.generation import Api, Generation, Piece

HELP = """\
/new           start over (the system message stays)
/undo          forget the last question and its answer
/system TEXT   set the system message and start over
/history       show what the model is sent
/quit          leave (also Ctrl-D)
Ctrl-C         end the answer; at the prompt: leave"""


@dataclass(kw_only=True)
class Conversation:
    """What was said so far.

    Attributes:
        system: System message; empty for none.
        max_tokens: Most tokens per answer.
        parameters: Sent with every request.
        turns: Questions and answers.
    """

    system: str = ""
    max_tokens: int = 512
    parameters: Mapping[str, object] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self) -> tuple[Mapping[str, str], ...]:
        """Return the conversation as a chat template takes it."""
        head = ({"role": "system", "content": self.system},) if self.system else ()
        return (*head, *self.turns)

    def ask(self, text: str) -> Generation:
        """Add a question and return the request for its answer."""
        self.turns.append({"role": "user", "content": text})
        return Generation(messages=self.messages(), max_tokens=self.max_tokens, parameters=self.parameters)

    def answer(self, text: str) -> None:
        """Add an answer; a question without one is taken back, so that roles keep taking turns."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        elif self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def undo(self) -> None:
        """Forget the last question and its answer."""
        while self.turns and self.turns.pop()["role"] != "user":
            pass


@dataclass(kw_only=True)
class Answer:
    """An answer as it came."""

    text: str = ""
    finish_reason: str = ""
    tokens: int = 0
    first_s: float = 0.0
    elapsed_s: float = 0.0
    is_cancelled: bool = False

    def describe(self) -> str:
        """Return the figures of the answer for people."""
        rest_s = self.elapsed_s - self.first_s
        rate = f", {(self.tokens - 1) / rest_s:.0f} tokens/s" if self.tokens > 1 and rest_s > 0 else ""
        why = {"length": ", cut at --max-tokens", "cancelled": ", cancelled"}.get(self.finish_reason, "")
        return f"{self.tokens} tokens, first after {self.first_s * 1000:.0f} ms{rate}{why}"


async def stream(api: Api, request: Generation, show: Callable[[str], None]) -> Answer:
    """Return the answer to ``request``; ``show`` gets its text as it comes. SIGINT cancels it, here and on the server.

    Raises:
        RequestFailure: The answer did not come whole.
    """
    loop = asyncio.get_running_loop()
    answer, started_s = Answer(), loop.time()

    def on_piece(piece: Piece) -> None:
        if piece.text:
            answer.first_s = answer.first_s or piece.at_s - started_s
            answer.tokens += 1
            answer.text += piece.text
            show(piece.text)
        answer.finish_reason = piece.finish_reason or answer.finish_reason
        answer.tokens = piece.completion_tokens or answer.tokens

    task = asyncio.ensure_future(api.generate(request, on_piece))
    with _sigint(loop, task.cancel):
        try:
            await task
        except asyncio.CancelledError:
            answer.is_cancelled, answer.finish_reason = True, "cancelled"
        finally:
            answer.elapsed_s = loop.time() - started_s
            await api.close()
    return answer


@contextlib.contextmanager
def _sigint(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> Iterator[None]:
    """Call ``action`` on Ctrl-C until the end of the block."""
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, action)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


class Chat:
    """Runs a conversation between a terminal and a model."""

    def __init__(
        self,
        connect: Callable[[], Api],
        conversation: Conversation,
        *,
        source: TextIO | None = None,
        sink: TextIO | None = None,
    ) -> None:
        self._connect = connect
        self._conversation = conversation
        self._in = source or sys.stdin
        self._out = sink or sys.stdout
        self._is_terminal = self._in.isatty() and self._out.isatty()

    def run(self) -> int:
        """Talk until the input ends; return the exit code."""
        if self._is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - line editing and history of input()
            click.echo("Ctrl-C ends an answer, Ctrl-D leaves, /help says the rest.", err=True)
        is_ok = True
        for line in self._lines():
            if line.startswith("/"):
                if self._command(line):
                    break
            else:
                is_ok = self._turn(line) and is_ok
        return 0 if is_ok or self._is_terminal else EXIT_UNMET

    def say_all(self, messages: tuple[str, ...]) -> int:
        """Say each message in turn; return the exit code.

        Raises:
            LaunchError: An answer failed.
        """
        for message in messages:
            if not self._turn(message, is_failure_final=True):
                return 130
        return 0

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = input(click.style("> ", bold=True)) if self._is_terminal else self._in.readline()
            except EOFError:
                click.echo("", err=True)
                return
            if not line and not self._is_terminal:
                return
            if line.strip():
                yield line.strip()

    def _turn(self, text: str, *, is_failure_final: bool = False) -> bool:
        """Ask and show the answer; return whether it came whole."""
        request = self._conversation.ask(text)
        answer = Answer()
        try:
            answer = asyncio.run(self._stream(request))
        except RequestFailure as failure:
            if is_failure_final:
                raise LaunchError(f"no answer: {failure.message}", hint=failure.hint) from None
            click.echo(f"\n{click.style('failed:', fg='red')} {failure.message}", err=True)
            return False
        finally:
            self._conversation.answer(answer.text)
        self._out.write("\n")
        self._out.flush()
        click.echo(click.style(f"[{answer.describe()}]", dim=True), err=True)
        return not answer.is_cancelled

    async def _stream(self, request: Generation) -> Answer:
        return await stream(self._connect(), request, self._show)

    def _show(self, text: str) -> None:
        self._out.write(printable(text))
        self._out.flush()

    def _command(self, line: str) -> bool:
        """Do what a line with a slash says; return whether to leave."""
        word, _, rest = line.partition(" ")
        talk = self._conversation
        if word in {"/quit", "/exit", "/q"}:
            return True
        if word == "/new":
            talk.turns.clear()
        elif word == "/undo":
            talk.undo()
        elif word == "/system":
            talk.system = rest.strip()
            talk.turns.clear()
        elif word == "/history":
            for message in talk.messages():
                click.echo(f"{message['role']}: {message['content']}", err=True)
        else:
            click.echo(HELP, err=True)
        return False


def printable(text: str) -> str:
    """Return model text without the control characters that could move the cursor or change the terminal."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))
