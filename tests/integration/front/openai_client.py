"""A client of OpenAI's API with nothing between the test and the wire."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.body["error"]
        return error

    @property
    def choices(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.body
        choices: list[dict[str, Any]] = self.body["choices"]
        return choices

    @property
    def text(self) -> str:
        [choice] = self.choices
        return text_of(choice)


@dataclass
class Stream:
    """The events of a stream."""

    status: int
    events: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False

    def text(self, index: int = 0) -> str:
        return "".join(text_of(choice) for event in self.events for choice in choices_of(event, index))

    def finish_reason(self, index: int = 0) -> str | None:
        found = [choice["finish_reason"] for event in self.events for choice in choices_of(event, index)]
        assert all(reason is None for reason in found[:-1])
        return found[-1] if found else None

    @property
    def error(self) -> str:
        found = [event["error"]["message"] for event in self.events if "error" in event]
        return found[-1] if found else ""


def text_of(choice: dict[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta") or {}
    return str(choice.get("text", message.get("content") or ""))


def choices_of(event: dict[str, Any], index: int) -> list[dict[str, Any]]:
    return [choice for choice in event.get("choices", ()) if choice["index"] == index]


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)


def send(connection: http.client.HTTPConnection, path: str, body: Any, headers: dict[str, str] | None = None) -> None:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})


def ask(url: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> Answer:
    """Send one request over a connection of its own."""
    with contextlib.closing(connect(url)) as connection:
        send(connection, path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, json.loads(text))


def get(url: str, path: str) -> tuple[int, str]:
    with contextlib.closing(connect(url)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def read_events(response: http.client.HTTPResponse) -> Iterator[str]:
    for raw in response:
        line = raw.decode().strip()
        if line:
            assert line.startswith("data: "), line
            yield line.removeprefix("data: ")


def stream(url: str, path: str, **body: Any) -> Stream:
    """Send one request that is answered in events; read them all."""
    with contextlib.closing(connect(url)) as connection:
        send(connection, path, {**body, "stream": True})
        response = connection.getresponse()
        found = Stream(response.status)
        if response.status != 200:
            found.events.append(json.loads(response.read()))
            return found
        for data in read_events(response):
            assert not found.is_done
            if data == "[DONE]":
                found.is_done = True
            else:
                found.events.append(json.loads(data))
        return found
