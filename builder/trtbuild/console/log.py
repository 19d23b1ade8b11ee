"""Everything people and log collectors see on standard error: one sink, three formats.

``human`` (a terminal: colours, progress bars), ``text`` (plain lines), ``json`` (one object per line, for pods).
It decides looks, never what happened; secrets are masked on the way (:mod:`trtbuild.redact`). Standard output belongs
to results and is not touched here.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from trtbuild import redact

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["human", "text", "json"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
HEARTBEAT_S = 30.0
RATE_WINDOW_S = 60.0
"""Bytes per second are those of so many seconds before: an hour of full speed says nothing of a line that is dead."""


def format_bytes(count: float) -> str:
    """Return a byte count in binary units, e.g. ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return seconds for people, e.g. ``4.2s``, ``3m12s``, ``1h05m``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


class Progress:
    """Progress of one long piece of work, in bytes or in steps. Thread-safe.

    Off a terminal it writes a line every :data:`HEARTBEAT_S` seconds, also when nothing advances, so that a silent
    half-hour build is visibly alive.
    """

    def __init__(self, sink: Log, event: str, msg: str, *, total: int | None, unit: Literal["bytes", "steps"]) -> None:
        self._sink, self._event, self._msg, self._unit = sink, event, msg, unit
        self._total, self._done, self._at_start = total, 0, 0
        self._note = ""
        self._started = sink.now()
        self._samples: collections.deque[tuple[float, int]] = collections.deque([(self._started, 0)])
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._show: Callable[[], None] | None = None

    def advance(self, count: int) -> None:
        """Add ``count`` bytes or steps."""
        with self._lock:
            self._done += count
            now = self._sink.now()
            if now - self._samples[-1][0] >= 1.0:
                self._samples.append((now, self._done - self._at_start))
                while len(self._samples) > 2 and now - self._samples[1][0] > RATE_WINDOW_S:
                    self._samples.popleft()
        if self._show:
            self._show()

    def resume_at(self, done: int) -> None:
        """Say that ``done`` was there before; it counts as done but not towards the rate."""
        with self._lock:
            self._done += done
            self._at_start += done

    def note(self, text: str) -> None:
        """Show ``text`` beside the bar (the current file, rank or phase)."""
        with self._lock:
            self._note = text
        if self._show:
            self._show()

    def eta_s(self) -> float | None:
        """Return the seconds left at the rate so far, or None while unknown."""
        with self._lock:
            rate = self._rate()
            return max(0.0, (self._total - self._done) / rate) if self._total and rate > 0 else None

    def _rate(self) -> float:
        """Return bytes or steps per second: bytes over the last minute, since connections come and go; steps over all.

        Nothing, or less than nothing (a range that is fetched again), in the last minute makes no estimate.
        """
        now, fresh = self._sink.now(), self._done - self._at_start
        since, before = self._samples[0] if self._unit == "bytes" else (self._started, 0)
        if self._unit == "bytes" and now - self._samples[-1][0] > RATE_WINDOW_S:
            since, before = self._samples[-1]
        return (fresh - before) / (now - since) if now > since else 0.0

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {"elapsed_s": round(self._sink.now() - self._started, 1)}
        eta = self.eta_s()
        if eta is not None:
            fields["eta_s"] = round(eta, 1)
        if self._unit == "bytes":
            fields["done_bytes"] = self._done
            if self._total:
                fields["total_bytes"] = self._total
        elif self._total:
            fields["done"], fields["total"] = self._done, self._total
        return fields

    def _line(self) -> str:
        return f"{self._msg}{f' ({self._note})' if self._note else ''}, {self._figures()}"

    def _figures(self, *, is_short: bool = False) -> str:
        """Return how far it is, as people read it; short: what fits beside a bar."""
        elapsed = self._sink.now() - self._started
        parts = []
        if self._unit == "bytes":
            whole = f" of {format_bytes(self._total)}" if self._total else ""
            with self._lock:
                rate = max(0.0, self._rate())
            parts.append(f"{format_bytes(self._done)}{whole}, {format_bytes(rate)}/s")
        elif self._total:
            parts.append(f"{self._done}/{self._total}")
        eta = self.eta_s()
        if eta is None or not is_short:
            parts.append(f"{format_duration(elapsed)} so far")
        if eta is not None:
            parts.append(f"about {format_duration(eta)} left")
        return ", ".join(parts)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            self._sink.info(self._event, self._line(), **self._fields())


class Log:
    """A sink for log lines. Create through :func:`configure`; get the current one with :func:`get`."""

    def __init__(
        self,
        *,
        log_format: Format = "text",
        level: str = "info",
        stream: TextIO | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.log_format: Format = log_format
        self.now = now
        self._threshold = LEVELS[level]
        self._stream = stream
        self._stage = ""
        self._base: dict[str, object] = {}
        self._lock = threading.Lock()
        self._console_cache: Console | None = None

    def debug(self, event: str, msg: str, **fields: object) -> None:
        """Write a line for those who look for a fault."""
        self._write("debug", event, msg, fields)

    def info(self, event: str, msg: str, **fields: object) -> None:
        """Write a line that every user should see."""
        self._write("info", event, msg, fields)

    def warning(self, event: str, msg: str, **fields: object) -> None:
        """Write a line about something that works, but not as asked."""
        self._write("warning", event, msg, fields)

    def error(self, event: str, msg: str, **fields: object) -> None:
        """Write a line about a failure."""
        self._write("error", event, msg, fields)

    def bind(self, **fields: object) -> None:
        """Add ``fields`` (``key``, ``rank``, ``model``) to every following JSON line."""
        self._base.update(fields)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name the pipeline stage that lines written inside belong to."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    @contextlib.contextmanager
    def progress(
        self, event: str, msg: str, *, total: int | None = None, unit: Literal["bytes", "steps"] = "bytes"
    ) -> Iterator[Progress]:
        """Show the progress of a long piece of work: a bar on a terminal, heartbeat lines elsewhere."""
        progress = Progress(self, event, msg, total=total, unit=unit)
        if self.log_format == "human" and self._threshold <= LEVELS["info"]:
            with self._bar(progress):
                yield progress
            return
        beat = threading.Thread(target=progress._beat, name=f"progress-{event}", daemon=True)
        beat.start()
        try:
            yield progress
        finally:
            progress._stop.set()
            beat.join()

    @contextlib.contextmanager
    def _bar(self, progress: Progress) -> Iterator[None]:
        from rich import progress as rich_progress
        from rich.table import Column
        from rich.text import Text

        class Figures(rich_progress.ProgressColumn):
            def render(self, task: rich_progress.Task) -> Text:  # noqa: ARG002 - the shape that rich asks for
                return Text(progress._figures(is_short=True), no_wrap=True)

        # One line on every terminal: figures first, then what it is about, then the bar; narrow ones lose the last two.
        width = self.console().width
        about = rich_progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns: list[rich_progress.ProgressColumn] = [rich_progress.SpinnerColumn(), Figures()]
        if width >= 60:
            columns.append(about)
        if width >= 100 and progress._total:
            columns.append(rich_progress.BarColumn(bar_width=20))
        with rich_progress.Progress(*columns, console=self.console(), transient=True) as bar:
            task = bar.add_task(progress._msg, total=progress._total)

            def show() -> None:
                about = f"[dim]{progress._note}[/dim]" if progress._note else progress._msg
                bar.update(task, completed=progress._done, description=about)

            progress._show = show
            show()
            yield
            progress._show = None

    def console(self) -> Console:
        """Return the rich console that writes to this sink's stream (terminal use only)."""
        if self._console_cache is None:
            from rich.console import Console

            class PatientConsole(Console):
                def on_broken_pipe(self) -> None:
                    """Go on without a reader; rich would end the process."""
                    self.quiet = True

            self._console_cache = PatientConsole(file=self._stream or sys.stderr, highlight=False)
        return self._console_cache

    def _write(self, level: str, event: str, msg: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self._threshold:
            return
        msg = redact.text(msg)
        if self.log_format == "json":
            stamp = datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="milliseconds")
            record = {"ts": stamp, "level": level, "stage": self._stage, "event": event, "msg": msg}
            is_utf8 = (getattr(self._stream or sys.stderr, "encoding", None) or "").lower() in {"utf-8", "utf8"}
            found = redact.value({**self._base, **fields})
            self._emit(json.dumps({**record, **found}, default=_as_text, ensure_ascii=not is_utf8))
        elif self.log_format == "human":
            from rich.markup import escape

            style = {"debug": "dim", "warning": "yellow", "error": "bold red"}.get(level)
            label = f"[cyan]{self._stage or 'trtbuild':>10}[/cyan] "
            text = escape(msg)
            with contextlib.suppress(OSError, ValueError):
                self.console().print(label + (f"[{style}]{text}[/{style}]" if style else text), soft_wrap=True)
        else:
            prefix = "" if level == "info" else f"{level}: "
            where = f"{self._stage}: " if self._stage else ""
            self._emit(" ".join(f"{where}{prefix}{msg}".splitlines()))  # a line stays one, whatever a name holds

    def _emit(self, line: str) -> None:
        """Write a line. A reader that went away or a full disk under a log must not end the work that it reports."""
        stream = self._stream or sys.stderr
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)


def _as_text(value: object) -> str:
    return redact.text(str(value))


_current = Log()


def configure(*, log_format: Format, level: str = "info", stream: TextIO | None = None) -> Log:
    """Make the process-wide sink; only the command lines call this."""
    global _current  # noqa: PLW0603 - one sink per process, like stderr itself
    _current = Log(log_format=log_format, level=level, stream=stream)
    return _current


def get() -> Log:
    """Return the process-wide sink."""
    return _current
