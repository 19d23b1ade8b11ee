"""What browsers need: pages that load nothing from elsewhere, and other origins only where they are allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.http.kit import CHAT, Running

ORIGIN = "https://ui.example"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "page"
    (directory / "parts").mkdir(parents=True)
    (directory / "index.html").write_text("<title>Chat</title>")
    (directory / "app.js").write_text("let a\n")
    (directory / "parts" / "icon.svg").write_text("<svg/>")
    (directory / "README.md").write_text("not for browsers")
    (directory / ".hidden.js").write_text("not for browsers")
    monkeypatch.setattr("trtbuild_http.gateway._PAGE", directory)
    return directory


def test_pages_are_served_with_a_strict_policy_and_need_no_key(
    start: Callable[..., Running], page: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("sk-1\n")
    running = start(api_key_file=str(tmp_path / "keys"))
    kinds = {"/": "text/html", "/index.html": "text/html", "/app.js": "text/javascript", "/parts/icon.svg": "image/svg"}
    for path, kind in kinds.items():
        answer = running.ask(path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert running.ask(path, method="HEAD").headers["etag"] == answer.headers["etag"]
        assert running.ask(path, {}, content_type="application/json").status == 405
    for path in ("/README.md", "/.hidden.js", "/../page/app.js", "/..%2fpage/app.js", "//app.js", "/parts", "/parts/"):
        assert running.ask(path, authorization="Bearer sk-1").status == 404


def test_a_page_that_a_browser_has_is_not_sent_again(start: Callable[..., Running], page: Path) -> None:
    running = start()
    tag = running.ask("/app.js").headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = running.ask("/app.js", if_none_match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert running.ask("/app.js", if_none_match='"other"').status == 200
    (page / "app.js").write_text("let b\n")
    assert start().ask("/app.js").headers["etag"] != tag


def test_without_a_page_there_is_nothing_at_the_root(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtbuild_http.gateway._PAGE", tmp_path / "none")
    assert start().ask("/").status == 404


def test_no_origin_is_allowed_unless_it_is_named(start: Callable[..., Running]) -> None:
    running = start()
    answer = running.ask(CHAT, {}, origin=ORIGIN)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = running.ask(CHAT, method="OPTIONS", origin=ORIGIN, access_control_request_method="POST")
    assert preflight.status == 204
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert preflight.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(("allowed", "said"), [((ORIGIN,), ORIGIN), (("*",), "*"), (("https://a", ORIGIN), ORIGIN)])
def test_named_origins_are_allowed(start: Callable[..., Running], allowed: tuple[str, ...], said: str) -> None:
    running = start(allowed_origins=allowed)
    preflight = running.ask(
        CHAT,
        method="OPTIONS",
        origin=ORIGIN,
        access_control_request_method="POST",
        access_control_request_headers="authorization, content-type, x-stainless-os",
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == said
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"
    for answer in (
        running.ask(CHAT, {}, origin=ORIGIN),
        running.ask(CHAT, {"events": 1}, origin=ORIGIN),
        running.ask(CHAT, {"model": "x"}, origin=ORIGIN),
        running.ask(CHAT, {}, origin=ORIGIN, content_type="text/plain"),
    ):
        assert answer.headers["access-control-allow-origin"] == said
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
    if said != "*":
        other = running.ask(CHAT, {}, origin="https://evil.example")
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "Origin"
