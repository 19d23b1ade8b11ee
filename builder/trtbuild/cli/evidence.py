"""Ask each hop of the autoscaling path for its document: over HTTP, through kubectl, or from saved files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trtbuild import health
from trtbuild.errors import LaunchError, SpecError
from trtbuild.process import Command, run
from trtbuild.signal_path import Evidence

KUBECTL_TIMEOUT_S = 30.0


def gather(
    *,
    metric: str,
    namespace: str,
    metrics_url: str | None,
    prometheus: str | None,
    hpa_name: str | None,
    selector: str | None,
    directory: Path | None,
) -> Evidence:
    """Return what could be asked; a hop without an address stays unasked, one that fails holds its error."""
    found: dict[str, Any] = _saved(directory) if directory else {}
    if metrics_url:
        found["metrics"] = _metrics(metrics_url.removesuffix("/metrics"))
    if prometheus:
        base = prometheus.rstrip("/")
        found["targets"] = _json(f"{base}/api/v1/targets")
        found["rules"] = _json(f"{base}/api/v1/rules")
        found["series"] = _json(f"{base}/api/v1/query?query={quote(metric)}")
    if hpa_name:
        found["hpa"] = _kubectl("-n", namespace, "get", "hpa", hpa_name, "-o", "json")
        path = f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/*/{metric}"
        found["custom_metrics"] = _kubectl("get", "--raw", path)
    if selector:
        found["pods"] = _kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    pods = _ready_pods(found.pop("pods", None))
    return Evidence(metric=metric, namespace=namespace, pods=pods, **found)


def _saved(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("targets", "rules", "series", "custom_metrics", "hpa", "pods"):
        path = directory / f"{name}.json"
        if path.exists():
            try:
                found[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise SpecError(f"{path} is not JSON: {error}", hint="save it with -o json, or curl") from error
    text = directory / "metrics.txt"
    if text.exists():
        found["metrics"] = text.read_text(encoding="utf-8")
    return found


def _metrics(url: str) -> Any:
    try:
        return health.read_metrics(url)
    except LaunchError as error:
        return {"error": error.message}


def _json(url: str) -> Any:
    try:
        return health.read_json(url)
    except LaunchError as error:
        return {"error": error.message}


def _kubectl(*arguments: str) -> Any:
    program = shutil.which("kubectl", path=os.environ.get("PATH", os.defpath))
    if not program:
        return {"error": "kubectl is not on PATH; save its answers and pass --from"}
    try:
        done = run(Command(argv=(program, *arguments)), timeout_s=KUBECTL_TIMEOUT_S, tail_lines=None)
    except (OSError, TimeoutError) as error:
        return {"error": str(error)}
    text = "\n".join(done.tail)
    if done.exit_code:
        return {"error": text.strip()[-500:]}
    try:
        return json.loads(text)
    except ValueError:
        return {"error": f"kubectl answered no JSON: {text[:200]}"}


def _ready_pods(document: Any) -> Sequence[str]:
    """Return the names of the pods that are ready, in a saved or fetched pod list."""
    if not isinstance(document, dict):
        return ()
    return tuple(
        str(pod["metadata"]["name"])
        for pod in document.get("items", [])
        if any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in pod.get("status", {}).get("conditions", [])
        )
    )
