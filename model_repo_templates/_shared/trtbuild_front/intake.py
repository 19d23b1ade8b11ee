"""From an arrived request to one that stands in line: refused, read, rendered, tokenized.

It decides what is refused at once and which thread prepares what. It knows neither the engine's connection nor answers
other than refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from trtbuild_front.engine import EngineContract
from trtbuild_front.fault_policy import as_fault, outcome_of
from trtbuild_front.faults import BusyError, OverloadError
from trtbuild_front.generation import Generation, Reply, Writer
from trtbuild_front.generation_request import GenerationRequest
from trtbuild_front.lanes import Lanes
from trtbuild_front.limits import MAX_RENDERING
from trtbuild_front.live import SHUTTING_DOWN, LiveRequests
from trtbuild_front.prompt import check_size, prepare, tokens_of
from trtbuild_front.request import Dialect, parse_request
from trtbuild_front.text.model import TextModel, size_bytes


class Intake:
    """Takes requests from any thread."""

    def __init__(
        self,
        *,
        text: TextModel,
        contract: EngineContract,
        dialect: Dialect,
        max_waiting: int,
        default_max_tokens: int,
        requests: LiveRequests,
        wake: Callable[[], None],
    ) -> None:
        self._text, self._contract, self._dialect = text, contract, dialect
        self._max_waiting, self._default_max_tokens = max_waiting, default_max_tokens
        self._requests, self._wake = requests, wake
        self._lanes = Lanes()

    def close(self) -> None:
        """Prepare nothing more."""
        self._text.close()  # threads that wait for a chat template go on
        self._lanes.shutdown()

    def submit(self, values: Mapping[str, npt.NDArray[Any]], reply: Reply, parameters: str) -> None:
        """Take a request of Triton's protocols; every answer, errors too, goes to ``reply``. Returns at once."""
        self.take(lambda: parse_request(values, self._dialect, parameters), reply)

    def take(self, read: Callable[[], GenerationRequest], reply: Reply) -> Generation | None:
        """Take a request of any protocol; every answer, errors too, goes to ``reply``. Returns at once.

        Args:
            read: Returns what is asked for; a :class:`RequestError` that it raises counts as an invalid request.
            reply: The way back.

        Returns:
            The request on its way, None when it was refused.
        """
        requests = self._requests
        if requests.stopping.is_set() or requests.drain_until_s is not None:
            reply.fail(OverloadError(SHUTTING_DOWN))
            return None
        ticket = requests.admission.enter()
        if ticket is None:
            requests.accounting.reject()
            limit = self._max_waiting
            reply.fail(BusyError(f"the queue is full ({limit} requests are waiting); send the request again later"))
            return None
        account = None
        try:
            account = requests.accounting.arrive(requests.now_s())
            request = read()
            size = check_size(request, self._text, self._contract)
            generation = Generation(ticket=ticket, request=request, reply=reply, account=account)
            requests.by_ticket[ticket] = generation
            if request.shared is not None and not request.shared.take():
                request.shared.when_known(lambda ids: self._take_tokens(generation, ids))
            elif request.messages is not None:
                self._have_rendered(lambda: self._render(generation))
            else:
                self._lanes.tokenize(size, lambda: self._prepare(generation))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns this request
            # There may be no generation yet, so what it would hold is given back by hand.
            requests.by_ticket.pop(ticket, None)
            requests.log.attempt_twice(lambda: requests.admission.leave(ticket))
            fault = as_fault(error, "the request could not be taken")
            outcome = outcome_of(fault)
            if account is not None:
                requests.log.attempt_twice(lambda: requests.accounting.finish(account, requests.now_s(), outcome))
            reply.fail(fault)
            return None
        return generation

    def tokenize(self, request: GenerationRequest, done: Callable[[list[int] | Exception], None]) -> None:
        """Hand the tokens of a request's prompt to ``done``, in a thread of the lanes; nothing is generated.

        Raises:
            RequestError: It is too long.
            BusyError: Too many conversations wait.
        """
        size = check_size(request, self._text, self._contract)

        def run(rendered: str | None = None) -> None:
            try:
                done(tokens_of(request, self._text, self._contract, rendered))
            except BaseException as error:  # noqa: BLE001 - as in _prepare
                done(as_fault(error, "the prompt could not be tokenized"))

        def render() -> None:
            try:
                rendered = self._written(request)
                self._lanes.tokenize(size_bytes(rendered), lambda: run(rendered))
            except BaseException as error:  # noqa: BLE001 - as in _prepare
                done(as_fault(error, "the prompt could not be rendered"))

        if request.messages is not None:
            self._have_rendered(render)
        else:
            self._lanes.tokenize(size, run)

    def run_in_lane(self, size_bytes: int, task: Callable[[], None]) -> None:
        """Run a task that handles so many bytes in a thread of the lanes. It must not raise."""
        self._lanes.tokenize(size_bytes, task)

    def _have_rendered(self, task: Callable[[], None]) -> None:
        if not self._lanes.render(task):
            raise BusyError(f"{MAX_RENDERING} conversations wait for the chat template; send the request again")

    def _written(self, request: GenerationRequest) -> str:
        """Return what the chat template makes of a conversation; waits for it."""
        return self._text.render(request.messages or "", self._contract.longest_prompt, request.template_options)

    def _render(self, generation: Generation) -> None:
        """Let the chat template write the prompt, in a thread that waits for it; then have it tokenized."""
        if generation.is_over:
            return
        try:
            text = self._written(generation.request)
            self._lanes.tokenize(size_bytes(text), lambda: self._prepare(generation, text))
        except BaseException as error:  # noqa: BLE001 - as in _prepare
            self._requests.fail_soon(generation, error, "the request could not be prepared")
            self._wake()

    def _take_tokens(self, generation: Generation, ids: tuple[int, ...]) -> None:
        """Prepare a request whose prompt another one has had tokenized."""
        generation.request = replace(generation.request, token_ids=ids)
        self._lanes.tokenize(0, lambda: self._prepare(generation))

    def _prepare(self, generation: Generation, rendered: str | None = None) -> None:
        """Tokenize, in a thread of the lanes."""
        if generation.is_over:
            return
        try:
            request = generation.request
            shared = request.shared
            if shared is not None and request.token_ids is None:
                ids = tuple(tokens_of(request, self._text, self._contract, rendered))
                generation.request = request = replace(request, token_ids=ids)
                shared.publish(ids)
            generation.prompt = prepare(request, self._text, self._contract, self._default_max_tokens, rendered)
            generation.writer = Writer(generation.request, generation.prompt, self._text)
            self._requests.admission.line_up(generation.ticket, generation)
        except BaseException as error:  # noqa: BLE001 - MemoryError and the panics of tokenizers, too: nothing else catches them
            self._requests.fail_soon(generation, error, "the request could not be prepared")
        self._wake()
