"""Conversations to prompts, in processes that are killed when a template takes too long.

It decides how many processes there are, which conversation gets one and for how long, and what the client gets
when one is lost. What is rendered how is decided in ``chat.py``, which runs in ``renderer.py``. No conversation is
parsed in this process.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from trtbuild_front.faults import BusyError, OverloadError, RequestError
from trtbuild_front.limits import (
    HURRIED_RENDER_S,
    HURRY_S,
    MAX_RENDERERS,
    MAX_SLOW_RENDERERS,
    MAX_TEMPLATE_BYTES,
    QUICK_RENDER_S,
    RENDER_S,
    SLOW_BEFORE_HURRY,
)
from trtbuild_front.text.renderer_process import BrokenTemplateError, RendererProcess


class Renderers:
    """Renders conversations, several at once. Thread-safe."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Start nothing yet: a process is started when it is needed."""
        self._setup = json.dumps({"source": source, "special_tokens": dict(special_tokens)}).encode()
        self._free = threading.Semaphore(MAX_RENDERERS)
        self._slow = threading.Semaphore(MAX_SLOW_RENDERERS)
        self._slow_at: deque[float] = deque(maxlen=SLOW_BEFORE_HURRY)
        self._lock = threading.Lock()
        self._idle: list[RendererProcess] = []
        self._busy: set[RendererProcess] = set()
        self._is_closed = False
        self.fault = ""
        """Why this template can never be used, or ""."""
        self.start_fault = ""
        """Why no process could be started the last time, or ""."""
        if len(source) > MAX_TEMPLATE_BYTES:
            self.fault = f"the chat template has {len(source)} characters; expected at most {MAX_TEMPLATE_BYTES}"

    def start(self) -> str:
        """Start the first process; return why conversations cannot be rendered, or ""."""
        if not self.fault:
            with suppress(OverloadError, RequestError):
                self._give_back(self._take())
        return self.fault or self.start_fault

    def render(self, messages: str, limit_bytes: int, options: str = "") -> str:
        """Return the prompt of a conversation.

        Args:
            messages: JSON text.
            limit_bytes: Longest prompt wanted.
            options: What the template gets besides, as JSON text.

        Raises:
            RequestError: No conversation, or the template refuses it, takes too long or writes too much.
            OverloadError: No process could be started.
            BusyError: It is slow and others are, too, or the machine is too busy to tell.
        """
        with self._free, ExitStack() as slow_place:
            renderer = self._take()
            refusals = []
            quick_s = self._quick_s()

            def may_be_slow() -> bool:
                self._slow_at.append(time.monotonic())
                if self._slow.acquire(blocking=False):
                    slow_place.callback(self._slow.release)
                    return True
                refusals.append(f"it took more than {quick_s:g} s while {MAX_SLOW_RENDERERS} others did")
                return False

            extra = options.encode(errors="replace")
            head = limit_bytes.to_bytes(8, "big") + len(extra).to_bytes(4, "big")
            answer = renderer.ask(head + extra + messages.encode(errors="replace"), RENDER_S, may_be_slow, quick_s)
            self._give_back(renderer, is_alive=answer is not None)
        if answer is None:
            if self._is_closed:
                raise OverloadError("the model is shutting down; send the request again")
            if refusals:
                raise BusyError(f"messages: no time for the chat template: {refusals[0]}; send the request again")
            if renderer.was_starved:  # the machine is busy, or the process was stopped
                raise BusyError(f"messages: the chat template took more than {RENDER_S:g} s; send the request again")
            raise RequestError(f"messages: the model's chat template {renderer.how_it_ended()} for this conversation")
        text = answer[1:].decode()
        if not answer.startswith(b"+"):
            raise RequestError(text)
        return text

    def _quick_s(self) -> float:
        """Return how long a conversation may take before it counts as slow: less while many are."""
        slow_at = self._slow_at
        is_hurried = len(slow_at) == SLOW_BEFORE_HURRY and time.monotonic() - slow_at[0] < HURRY_S
        return HURRIED_RENDER_S if is_hurried else QUICK_RENDER_S

    def _give_back(self, renderer: RendererProcess, *, is_alive: bool = True) -> None:
        with self._lock:
            self._busy.discard(renderer)
            is_kept = is_alive and not self._is_closed
            if is_kept:
                self._idle.append(renderer)
        if not is_kept:
            renderer.close()

    def _take(self) -> RendererProcess:
        renderer: RendererProcess | None = None
        while not self.fault:
            with self._lock:
                if self._is_closed:
                    raise OverloadError("the model is shutting down; send the request again")
                renderer = self._idle.pop() if self._idle else None
                if renderer is not None:
                    self._busy.add(renderer)
            if renderer is None:
                break
            if renderer.is_alive:
                return renderer
            with self._lock:
                self._busy.discard(renderer)
            renderer.close()
        try:
            if not self.fault:
                renderer, self.start_fault = RendererProcess(self._setup), ""
        except OSError as error:
            self.start_fault = f"no process could be started for the chat template: {error}"
            raise OverloadError(f"messages: {self.start_fault}") from error
        except BrokenTemplateError as error:
            self.fault = str(error)
        if renderer is None:
            raise RequestError(f"messages: {self.fault}; this model takes text_input only")
        with self._lock:
            self._busy.add(renderer)
        return renderer

    def close(self) -> None:
        """End all processes, busy ones too."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for renderer in self._busy:
                renderer.kill()
        for renderer in idle:
            renderer.close()

    def __del__(self) -> None:
        """End the processes of a model that was not closed."""
        self.close()
