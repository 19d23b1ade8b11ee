"""A hub of its own for every test, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.fetch.fetch_helpers import MIB, Client
from trtbuild.fetch import Hub
from trtbuild.fetch.limits import Tuning


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub


@pytest.fixture
def make_client(tmp_path: Path) -> Callable[..., Client]:
    def make(stub: HubStub, *, name: str = "cache", **options: object) -> Client:
        client = Client(tmp_path / name, Hub(endpoint=stub.endpoint, **options), Tuning())  # type: ignore[arg-type]
        client.tuning = Tuning(
            connections=4,
            range_bytes=MIB,
            sync_bytes=MIB,
            journal_bytes=MIB // 8,
            timeout_s=20,
            pause=client.pauses.append,
        )
        return client

    return make


@pytest.fixture
def client(hub: HubStub, make_client: Callable[..., Client]) -> Client:
    return make_client(hub)
