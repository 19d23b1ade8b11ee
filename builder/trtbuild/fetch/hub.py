"""Which hub, who we are there, and how to reach it; and the values that describe a model's files.

Everything here is a frozen value. It decides what environment variables mean (:meth:`Hub.from_env`, called by the
command line with the environment) and which names and ids from a hub are safe to use as paths. No network, no files
but the token file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from trtbuild import redact
from trtbuild.errors import FetchError
from trtbuild.model.remote import RemoteFile, is_safe_path

DEFAULT_ENDPOINT = "https://huggingface.co"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
_TRUE = {"1", "on", "yes", "true"}  # Source: huggingface_hub 2.4, constants.py
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A hub and our way to it. Secrets are left out of ``repr``.

    Attributes:
        endpoint: Base address without a trailing slash and without a login.
        login: ``user:password`` that stood in ``HF_ENDPOINT``, sent to the endpoint's own host only.
        token: Access token, sent to the endpoint's own host only.
        token_error: Why the token cannot be used; raised when the hub is asked, and not before.
        is_offline: No network is used at all; only the cache.
        ca_bundle: File or directory of trusted certificates, or None for the system's.
        proxies: Proxy address by scheme (``http``, ``https``), and under ``no`` the hosts to reach directly.
    """

    endpoint: str = DEFAULT_ENDPOINT
    login: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_error: FetchError | None = field(default=None, repr=False)
    is_offline: bool = False
    ca_bundle: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Hub:
        """Return the hub that an environment describes, with the variables that Hugging Face's own tools read.

        Source: huggingface_hub 2.4 (HF_*), requests and OpenSSL (certificates), curl (proxies).

        Raises:
            FetchError: A variable other than the token's holds something unusable.
        """
        token, token_error = None, None
        try:
            token = _token(environ)
        except FetchError as error:  # a local model and a complete cache need none
            token_error = error
        if token:
            redact.learn(token)
        endpoint, login = _endpoint(environ.get("HF_ENDPOINT", ""))
        return cls(
            endpoint=endpoint,
            login=login,
            token=token,
            token_error=token_error,
            is_offline=any(environ.get(n, "").lower() in _TRUE for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
            ca_bundle=next((Path(environ[name]) for name in _CA_VARIABLES if environ.get(name)), None),
            proxies=_proxies(environ),
        )

    def url(self, *parts: str) -> str:
        """Return the address of a path on the hub; each part is quoted whole, slashes too."""
        return "/".join([self.endpoint, *(quote(part, safe="") for part in parts)])

    @property
    def host(self) -> str:
        """Host and port of the endpoint, for messages."""
        return urlsplit(self.endpoint).netloc


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model pinned to a commit.

    Attributes:
        model_id: Hugging Face id.
        revision: What was asked for: branch, tag or commit.
        commit: 40 hex digits.
        files: All files of the commit, or None while nobody has listed them (no network was needed so far).
    """

    model_id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...] | None = None


def is_commit(revision: str) -> bool:
    """Say whether a revision is already a full commit id."""
    return _COMMIT.fullmatch(revision) is not None


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of the Hugging Face cache that an environment describes.

    Source: huggingface_hub 2.4, constants.py.

    Raises:
        FetchError: It depends on a home directory, and there is none.
    """
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return _expanded(environ[name])
    return _hf_home(environ) / "hub"


def check_model_id(model_id: str) -> str:
    """Return a model id that is safe in addresses and paths.

    Raises:
        FetchError: It is not of the form ``owner/name`` or ``name``.
    """
    if not _MODEL_ID.fullmatch(model_id) or ".." in model_id or "--" in model_id:
        raise FetchError(
            f"expected a Hugging Face id such as meta-llama/Llama-3.1-8B, got {model_id!r}",
            hint="trtbuild models lists the catalog; a local model is named by its directory, e.g. ./my-model",
        )
    return model_id


def check_revision(revision: str) -> str:
    """Return a revision that is safe in addresses and below ``refs/``.

    Raises:
        FetchError: It cannot be the name of a branch, tag or commit.
    """
    if not is_safe_path(revision) or revision.startswith("-") or any(c in revision for c in " ~^:?*["):
        raise FetchError(
            f"expected a branch, tag or commit, got the revision {revision!r}",
            hint="pass a name from the model's page, or a 40-digit commit, with --revision",
        )
    return revision


def _hf_home(environ: Mapping[str, str]) -> Path:
    if environ.get("HF_HOME"):
        return _expanded(environ["HF_HOME"])
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _expanded(environ.get("HOME") or "~") / ".cache") / "huggingface"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # a pod's user without an entry in /etc/passwd
        raise FetchError(
            f"{text} cannot be found: this user (uid {os.geteuid()}) has no home directory",
            hint="export HF_HOME=/path/to/a/writable/directory",
        ) from error


def _endpoint(text: str) -> tuple[str, str | None]:
    """Return the address and the login of an endpoint."""
    endpoint, login = redact.split_login((text.strip() or DEFAULT_ENDPOINT).rstrip("/"))
    try:
        parts = urlsplit(endpoint)
        is_usable = parts.port != 0
    except ValueError:  # a port that is none, a bracket too many
        is_usable = False
    if not is_usable or parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise FetchError(
            f"HF_ENDPOINT: expected an address such as {DEFAULT_ENDPOINT}, got {endpoint!r}",
            hint=f"export HF_ENDPOINT={DEFAULT_ENDPOINT}, or unset it",
        )
    return endpoint, login


def _token(environ: Mapping[str, str]) -> str | None:
    origin = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environ.get(name, "").strip()), None)
    if origin:
        raw = environ[origin]
    else:
        path = _expanded(environ.get("HF_TOKEN_PATH") or str(_hf_home(environ) / "token"))
        origin = str(path)
        try:
            raw = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise FetchError(
                f"the Hugging Face token file {path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}",
                hint="make it readable, or export HF_TOKEN=hf_... (for public models: HF_TOKEN_PATH=/dev/null); "
                "with HF_HUB_OFFLINE=1 only the cache is used",
            ) from error
    token = raw.strip()
    if not all(33 <= ord(char) < 127 for char in token):  # never shown: it may be a secret with a typing error
        raise FetchError(
            f"{origin} holds characters that no access token has",
            hint=f"copy the token again from {DEFAULT_ENDPOINT}/settings/tokens (it looks like hf_...)",
        )
    return token or None


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    proxies = {scheme: value(f"{scheme}_proxy") or value("all_proxy") for scheme in ("http", "https")}
    proxies["no"] = value("no_proxy")
    return {name: text for name, text in proxies.items() if text}
