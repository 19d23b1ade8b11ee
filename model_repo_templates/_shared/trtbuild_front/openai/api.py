"""What one text model offers over HTTP; a :class:`trtbuild_http.model_api.ModelApi`.

It decides which path is answered by what. How answers are made is decided in ``answers.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trtbuild_http.errors import ApiError

from trtbuild_front.faults import BusyError, OverloadError, RequestError
from trtbuild_front.generation_request import SAMPLING, GenerationRequest
from trtbuild_front.openai import shapes
from trtbuild_front.openai.answers import Answers, Submits
from trtbuild_front.openai.faults import as_api_error
from trtbuild_front.openai.reading import ModelFacts, Wanted, read_chat, read_completion
from trtbuild_front.openai.tokens import TokenRoutes
from trtbuild_front.text.token_bytes import token_bytes

if TYPE_CHECKING:
    from trtbuild_http.exchange import Exchange

    from trtbuild_front.engine import EngineContract
    from trtbuild_front.generation import Reply
    from trtbuild_front.openai.shapes import Kind
    from trtbuild_front.text.model import TextModel

Handler = Callable[["Exchange", dict[str, Any]], None]
Read = Callable[[Mapping[str, Any], ModelFacts, str], Wanted]

_STUCK_S = 30.0
"""As ``trtbuild health`` has it."""


class Serves(Submits, Protocol):
    """Who serves requests; :class:`trtbuild_front.service.Service`."""

    @property
    def beat_s(self) -> float:
        """When the serving thread last began a turn."""

    @property
    def is_ending(self) -> bool:
        """Whether new requests are refused."""

    def refuse_request(self, error: Exception, reply: Reply) -> None:
        """Count a request that could not be read, and refuse it."""

    def tokenize(self, request: GenerationRequest, done: Callable[[list[int] | Exception], None]) -> None:
        """Hand the tokens of a prompt to ``done``."""

    def run_in_lane(self, size_bytes: int, task: Callable[[], None]) -> None:
        """Run a task that handles so many bytes in another thread."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a model is called, and where it comes from.

    Attributes:
        name: As served.
        model_id: On Hugging Face, or a directory's name; may be empty.
        revision: Its commit.
        engine_key: Of the engine; may be empty.
        created: When the engine was built, in seconds since the epoch.
    """

    name: str
    model_id: str = ""
    revision: str = ""
    engine_key: str = ""
    created: int = 0

    @property
    def fingerprint(self) -> str:
        """``system_fingerprint``: what decides what the model computes."""
        return f"fp_{self.engine_key[:12]}" if self.engine_key else "fp_unknown"


def legal_defaults(defaults: Mapping[str, float]) -> dict[str, float]:
    """Return those recommendations of a model's authors that are legal values."""
    found = {}
    for name, value in defaults.items():
        try:
            found[name] = SAMPLING[name].check(name, value)
        except RequestError:
            continue
    return found


class TextApi:
    """The API of one model."""

    def __init__(
        self,
        identity: Identity,
        text: TextModel,
        contract: EngineContract,
        service: Serves,
        *,
        most_at_once: int,
        metrics: Callable[[], bytes],
        engine_fault: Callable[[], str],
    ) -> None:
        self._identity, self._text, self._service = identity, text, service
        self._max_model_len = contract.max_seq_len
        self._metrics, self._engine_fault = metrics, engine_fault
        self._facts = ModelFacts(
            sampling_defaults=legal_defaults(text.sampling_defaults),
            has_log_probs="return_log_probs" in contract.inputs and "output_log_probs" in contract.outputs,
            most_at_once=most_at_once,
        )
        tokens = TokenRoutes(text, service.tokenize, service.run_in_lane, self._max_model_len)
        self.routes: Mapping[str, Handler] = {
            "/v1/chat/completions": lambda exchange, body: self._answer(exchange, body, shapes.CHAT, read_chat),
            "/v1/completions": lambda exchange, body: self._answer(exchange, body, shapes.COMPLETION, read_completion),
            "/tokenize": _refusing(tokens.tokenize),
            "/detokenize": _refusing(tokens.detokenize),
        }

    @property
    def name(self) -> str:
        """What clients write in ``model``."""
        return self._identity.name

    @property
    def aliases(self) -> frozenset[str]:
        """Other names that mean it."""
        return frozenset({self._identity.model_id} - {"", self.name})

    def describe(self) -> dict[str, Any]:
        """Return its entry in ``/v1/models``."""
        return {
            "id": self.name,
            "object": "model",
            "created": self._identity.created,
            "owned_by": "trtbuild",
            "root": self._identity.model_id or self.name,
            "revision": self._identity.revision,
            "engine_key": self._identity.engine_key,
            "max_model_len": self._max_model_len,
        }

    def metrics(self) -> bytes:
        """Return its series in Prometheus' text format."""
        return self._metrics()

    def unready_reason(self) -> str:
        """Return why it cannot answer now, or ""."""
        return "the server is shutting down" if self._service.is_ending else self._engine_fault()

    def stuck_reason(self) -> str:
        """Return why its process must be started again, or ""."""
        still_s = time.time() - self._service.beat_s
        return f"the serving thread has stood still for {still_s:.0f} s" if still_s > _STUCK_S else ""

    def _answer(self, exchange: Exchange, body: dict[str, Any], kind: Kind, read: Read) -> None:
        try:
            wanted = read(body, self._facts, exchange.request.request_id)
        except (ApiError, RequestError) as error:
            self._service.refuse_request(RequestError(str(error)), _Refusal(exchange, error))
            return
        shape = shapes.Shape(
            kind,
            model=self.name,
            fingerprint=self._identity.fingerprint,
            spell=(lambda number: token_bytes(self._text, number)) if wanted.has_log_probs else None,
            top=wanted.top_log_probs,
            includes_usage=wanted.includes_usage and wanted.streams,
        )
        Answers(exchange, wanted, shape, self._service).begin()


class _Refusal:
    """The way back of a request that could not be read; a :class:`trtbuild_front.generation.Reply`."""

    def __init__(self, exchange: Exchange, error: Exception) -> None:
        self._exchange, self._error = exchange, error

    def send(self, piece: object) -> None:
        """Nothing is generated for it."""

    def fail(self, error: Exception) -> None:
        """Send what is wrong with the request, or that there is no room even to look at it."""
        shown = error if isinstance(error, OverloadError) else self._error
        self._exchange.fail(as_api_error(shown))

    def is_cancelled(self) -> bool:
        """It is over at once."""
        return False


def _refusing(handler: Handler) -> Handler:
    def handle(exchange: Exchange, body: dict[str, Any]) -> None:
        try:
            handler(exchange, body)
        except (RequestError, BusyError) as error:
            raise as_api_error(error) from None

    return handle
