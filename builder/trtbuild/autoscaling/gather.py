"""Ask each hop of the autoscaling path for its document: over HTTP, through kubectl, or from saved files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trtbuild.autoscaling.evidence import DOCUMENTS, POD_LABELS, Evidence, own_labels, scaled_object_of
from trtbuild.autoscaling.signal import APIS, is_missing
from trtbuild.errors import LaunchError, SpecError
from trtbuild.http_client import BadStatusError
from trtbuild.process import Command, run

KUBECTL_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Readers:
    """How documents are read: over HTTP, and through a program.

    Attributes:
        read_json: Returns the JSON at a URL.
        read_metrics: Returns the text of a metrics endpoint, given the URL without ``/metrics``.
        kubectl: Path of kubectl; None: it is not there.
    """

    read_json: Callable[[str], Any]
    read_metrics: Callable[[str], str]
    kubectl: str | None


def gather(
    readers: Readers,
    *,
    metric: str | None,
    namespace: str,
    metrics_url: str | None,
    prometheus: str | None,
    hpa_name: str | None,
    selector: str | None,
    directory: Path | None,
) -> Evidence:
    """Return what could be asked; a hop without an address stays unasked, one that fails holds its error.

    The autoscaler comes first: it says which metric to follow through the others, and whose pods they are about.
    What is saved in ``directory`` is not asked again.
    """
    found: dict[str, Any] = _saved(directory) if directory else {}

    def ask(name: str, question: Callable[[], Any]) -> Any:
        if name not in found:
            found[name] = question()
        return found[name]

    if hpa_name:
        hpa = ask("hpa", lambda: _kubectl(readers, "-n", namespace, "get", "hpa", hpa_name, "-o", "json"))
        _refuse_other_name(hpa, hpa_name, directory)
        owner = hpa_name if is_missing(hpa) else scaled_object_of(hpa)
        if owner:
            scaled = ("get", "scaledobjects.keda.sh", owner, "-o", "json")
            ask("scaled_object", lambda: _kubectl(readers, "-n", namespace, *scaled))
        own = {"app.kubernetes.io/component": "server"} | {POD_LABELS[k]: v for k, v in own_labels(hpa).items()}
        if not selector and len(own) > len(POD_LABELS):
            selector = ",".join(f"{key}={value}" for key, value in own.items())
    if selector:
        ask("pods", lambda: _kubectl(readers, "-n", namespace, "get", "pods", "-l", selector, "-o", "json"))
    if metrics_url:
        ask("metrics", lambda: _metrics(readers, metrics_url.removesuffix("/").removesuffix("/metrics")))
    signal = Evidence(metric=metric, namespace=namespace, **found).signal
    if prometheus:
        base = prometheus.rstrip("/")
        ask("targets", lambda: _json(readers, f"{base}/api/v1/targets"))
        ask("rules", lambda: _json(readers, f"{base}/api/v1/rules"))
        if signal.query:
            ask("series", lambda: _json(readers, f"{base}/api/v1/query?query={quote(signal.query)}"))
    if hpa_name and signal.kind in APIS:
        path = signal.path(namespace, quote(selector or ""))
        ask(APIS[signal.kind].document, lambda: _kubectl(readers, "get", "--raw", path))
    return Evidence(metric=metric, namespace=namespace, **found)


def _refuse_other_name(hpa: Any, name: str, directory: Path | None) -> None:
    """Refuse a saved autoscaler that is not the one that was asked for.

    Raises:
        SpecError: Its name differs; the message names both.
    """
    saved = hpa.get("metadata", {}).get("name") if directory and isinstance(hpa, dict) else None
    if saved and saved != name:
        raise SpecError(
            f"--hpa is {name}, and hpa.json in {directory} is of {saved}",
            hint=f"pass --hpa {saved}, or save the other: kubectl get hpa {name} -o json > {directory}/hpa.json",
        )


def _saved(directory: Path) -> dict[str, Any]:
    """Return the answers in a directory; a file may also hold the words of a kubectl that failed."""
    found: dict[str, Any] = {}
    for name in DOCUMENTS:
        path = directory / f"{name}.json"
        if path.exists():
            found[name] = _parsed(path.read_text(encoding="utf-8"))
            if not isinstance(found[name], dict):
                raise SpecError(
                    f"{path} holds no JSON object", hint="save it with -o json, --raw or curl; 2>&1 saves errors too"
                )
    text = directory / "metrics.txt"
    if text.exists():
        found["metrics"] = text.read_text(encoding="utf-8")
    return found


def _parsed(text: str) -> Any:
    """Return the JSON of an answer, an error where kubectl or a server said so in words, else None."""
    # kubectl complains on standard error about any API that is down, and answers all the same.
    lines = [line for line in text.splitlines() if not re.match(r"[EWI]\d{4} |Warning: ", line)]
    text = "\n".join(lines).strip()
    try:
        return json.loads(text)
    except ValueError:
        is_error = re.match(r"Error|error:|Unable to connect|The connection|service unavailable", text)
        return {"error": text[-500:]} if is_error else None


def _metrics(readers: Readers, url: str) -> Any:
    try:
        return readers.read_metrics(url)
    except LaunchError as error:
        return {"error": error.message}


def _json(readers: Readers, url: str) -> Any:
    try:
        return readers.read_json(url)
    except LaunchError as error:
        answer = error.__cause__
        if isinstance(answer, BadStatusError):  # Prometheus says in the body what it minds
            document = _parsed(answer.body.decode("utf-8", "replace"))
            return document if isinstance(document, dict) else {"status": "error", "error": error.message}
        return {"error": error.message}


def _kubectl(readers: Readers, *arguments: str) -> Any:
    if not readers.kubectl:
        return {"error": "kubectl is not on PATH"}
    try:
        done = run(Command(argv=(readers.kubectl, *arguments)), timeout_s=KUBECTL_TIMEOUT_S, tail_lines=None)
    except (OSError, TimeoutError) as error:
        return {"error": str(error)}
    text = "\n".join(done.tail)
    document = _parsed(text)
    if isinstance(document, dict) and not (done.exit_code and "error" not in document):
        return document
    return {"error": text.strip()[-500:] or f"kubectl ended with {done.exit_code} and said nothing"}
