"""Keep secrets out of everything that leaves the program: messages, logs, manifests, reports, tracebacks.

It decides what a secret looks like and what stands in its place. Whoever writes something (the log, the rendering of
errors, standard output, a manifest, the log file of a child) calls it at the last moment, so that no stage has to think
of it. Two ways to recognize a secret: by its shape (a URL's login, a signed query, a header, a token's prefix), and by
its value, for what this process was given (:func:`learn_environment`, :func:`learn`).
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"

MIN_KNOWN_CHARS = 6
"""Shorter values are masked only where their place gives them away: every "pw" of a log cannot be a secret."""

_MIN_GUESSED_CHARS = 8
"""Values of variables that are merely named like secrets; shorter ones are "true", "none" and friends."""

SECRET_NAME = re.compile(
    r"^token$|(?:^|[_.-])(?:hf_token|access_token|auth_token|session_token|security_token|sas_token|bearer|api_?key|secret"
    r"|secret_\w+|password|passwd|authorization|credentials?|access_key\w*|account_key)$",
    re.IGNORECASE,
)
"""Names of fields whose whole value is a secret."""

_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|(?:SECRET|ACCOUNT|STORAGE)_(?:ACCESS_)?KEY|ACCESS_KEY(?:_ID)?)$",
    re.IGNORECASE,
)

# Schemes whose user part is a name that everybody may know: a container, the account that git logs in as.
_PLAIN_USER = re.compile(r"(?:abfss?|wasbs?|ssh|git\+ssh)$", re.IGNORECASE)
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:"
    r'([^\s/?#"<>\\]*)@'  # RFC 3986: the user part ends at the last @ before the path
    # A password with a raw slash or question mark is no valid URL, and is typed all the same. A port is no password.
    r'|([^\s/?#@:\["<>\\]*:(?!\d{0,5}(?:[/?#]|\\|["<>\s]|$))[^\s"<>]*)@'
    r")"
)
_QUERY = re.compile(
    r"(?<=[?&;])((?:[\w.-]*[_-])?(?:signature|sig|token|secret|password|passwd|pwd|credential|credentials|api_?key|key"
    r"|auth|authorization|code|accesskeyid|awsaccesskeyid|googleaccessid|key-pair-id|policy|jwt))=([^&\s\"'<>#]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"((?:proxy-)?authorization|x-api-key|api-key|x-amz-security-token|x-auth-token|set-cookie|cookie)"
    r"([\"']?\s*:\s*[\"']?)([^\s\"'{}\[\],][^\"'\r\n{}\[\]]*)",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    r"\b((?:\w*_)?(?:hf_token|hub_token|access_token|auth_token|session_token|api_?key|password|passwd|secret"
    r"|secret_\w+|account_key))(\s*=\s*[\"']?)(?!\S*\.\.\.)([A-Za-z0-9+/][^\s\"'&,;]{5,})",
    re.IGNORECASE,
)
# Source: the documented prefixes of Hugging Face, AWS, GitHub and NVIDIA NGC tokens, and of JSON web tokens. A word
# such as hf_quantizer is none: tokens are random, so digits or capitals are among their characters.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|nvapi-[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}[\w.-]*)"
)
_BEARER = re.compile(r"\b((?i:bearer)\s+)(?![a-z]{1,15}(?:[\s\"',;.]|$))([^\s\"',;]{8,})")

_known: frozenset[str] = frozenset()
_known_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


def text(value: str) -> str:
    """Return ``value`` with :data:`MASK` in the place of every secret; text without one comes back as it is."""
    if "://" in value:
        value = _URL.sub(_without_login, value)
    if _known_pattern is not None:
        value = _known_pattern.sub(MASK, value)
    value = _QUERY.sub(rf"\1={MASK}", value)
    value = _HEADER.sub(rf"\1\2{MASK}", value)
    value = _ASSIGNMENT.sub(rf"\1\2{MASK}", value)
    value = _BEARER.sub(rf"\1{MASK}", value)
    return _TOKEN.sub(MASK, value)


def _without_login(match: re.Match[str]) -> str:
    scheme, login = match.group(1), match.group(2)
    if login is not None and ":" not in login and _PLAIN_USER.match(scheme):
        return match.group(0)
    return f"{scheme}://{MASK}@"


def value(item: Any) -> Any:
    """Return a JSON-like value with every secret masked, also the whole value of a field that is named like one."""
    return _value("", item)


def _value(name: str, item: Any) -> Any:
    if isinstance(item, str):
        return MASK if item and SECRET_NAME.search(name) else text(item)
    if isinstance(item, Mapping):
        return {text(key) if isinstance(key, str) else key: _value(str(key), part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_value(name, part) for part in item]
    return item


def learn(*secrets: str) -> None:
    """Mask these values from now on, wherever they appear, also quoted for a URL, as JSON or as Python writes them."""
    _add(secret for secret in secrets if len(secret) >= MIN_KNOWN_CHARS)


def _add(secrets: Iterable[str]) -> None:
    global _known, _known_pattern  # noqa: PLW0603 - one set per process, like the standard streams that it guards
    forms = {form for secret in secrets for form in _forms(secret)}
    with _lock:
        if forms <= _known:
            return
        _known |= forms
        longest_first = sorted(_known, key=lambda form: (-len(form), form))
        _known_pattern = re.compile("|".join(map(re.escape, longest_first)))


def learn_environment(environ: Mapping[str, str]) -> None:
    """Learn what an environment gave to this process: tokens, keys, and the logins of proxies and other addresses."""
    for name, content in environ.items():
        if _SECRET_VARIABLE.search(name) and len(content.strip()) >= _MIN_GUESSED_CHARS:
            learn(content.strip())
        is_proxy = name.lower().endswith("_proxy") and name.lower() != "no_proxy"
        if "@" in content and ("://" in content or is_proxy):
            learn_login(content.partition("://")[2] or content)


def learn_login(address: str) -> None:
    """Learn the login in ``user:password@host``, an address without its scheme."""
    login, at, _ = address.rpartition("@")
    user, colon, password = login.partition(":")
    if not at or (not colon and not user):
        return
    if colon:
        plain = f"{unquote(user)}:{unquote(password)}"
        # With the user in front a password may be short; as a header (basic authentication) it is base64.
        learn(password, unquote(password))
        _add((login if len(login) >= MIN_KNOWN_CHARS else f"{login}@", base64.b64encode(plain.encode()).decode()))


def split_login(url: str) -> tuple[str, str | None]:
    """Return an address without its login, and the login as ``user:password`` for a header, or None.

    The login is learned on the way: an address is shown and kept, and its login travels in a header alone.
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    if not separator or not at:
        return url, None
    learn_login(authority)
    user, _, password = login.partition(":")
    return f"{scheme}://{host}{slash}{path}", f"{unquote(user)}:{unquote(password)}"


def forget() -> None:
    """Forget what was learned (for tests)."""
    global _known, _known_pattern
    with _lock:
        _known, _known_pattern = frozenset(), None


def _forms(secret: str) -> Iterable[str]:
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
