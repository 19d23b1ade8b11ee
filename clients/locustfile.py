"""The load of ``trtclient load`` for Locust: streams from a model that Triton serves; first token and whole answer.

    locust -f clients/locustfile.py --host http://127.0.0.1:8000 --headless -u 20 -r 2 -t 1m

The model is ``TRTCLIENT_MODEL``, the answer's length ``TRTCLIENT_MAX_TOKENS``. Locust counts from sending: what it
could not send in time, it omits.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from locust import HttpUser, between, events, task

MODEL = os.environ.get("TRTCLIENT_MODEL", "llama-3-8b")
MAX_TOKENS = int(os.environ.get("TRTCLIENT_MAX_TOKENS", "64"))
WAIT_S = float(os.environ.get("TRTCLIENT_WAIT_S", "1"))


class Talker(HttpUser):  # type: ignore[misc]
    """A user who asks, reads the response and thinks for a moment."""

    wait_time = between(WAIT_S / 2, WAIT_S * 3 / 2)

    @task
    def ask(self) -> None:
        """Stream one answer."""
        body = {"text_input": "Once upon a time", "max_tokens": MAX_TOKENS, "stream": True}
        started_s, first_s = time.perf_counter(), None
        with self.client.post(
            f"/v2/models/{MODEL}/generate_stream", json=body, stream=True, catch_response=True, name="generate_stream"
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"HTTP {answer.status_code}: {answer.text[:200]}")
                return
            for line in answer.iter_lines():
                if not line.startswith(b"data:"):
                    continue
                piece: dict[str, Any] = json.loads(line[5:])
                if "error" in piece:
                    answer.failure(str(piece["error"]))
                    return
                if piece.get("text_output") and first_s is None:
                    first_s = time.perf_counter() - started_s
            # Locust stops its clock at the headers of a streamed answer.
            answer.request_meta["response_time"] = (time.perf_counter() - started_s) * 1000
            answer.success()
        events.request.fire(
            request_type="TTFT", name="first token", response_time=(first_s or 0.0) * 1000, response_length=0,
            exception=None, context={},
        )  # fmt: skip
