"""One hop of the path as it was judged, and the judgements that several hops share. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from trtbuild.autoscaling.evidence import Evidence
from trtbuild.autoscaling.signal import Document, Signal, error_of


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One hop of the path.

    Attributes:
        name: What it is.
        is_ok: It works; None when that is not known.
        text: What was seen.
        fix: What to do when it does not work, or when it should be known and is not.
    """

    name: str
    is_ok: bool | None
    text: str
    fix: str = ""


def not_asked(name: str, how: str) -> Hop:
    """Return a hop that was not queried, and the option that queries it."""
    return Hop(name=name, is_ok=None, text=f"not asked ({how})")


def not_needed(name: str, signal: Signal) -> Hop:
    """Return a hop that this signal does not pass."""
    return Hop(name=name, is_ok=None, text=f"not needed: the autoscaler follows {signal.name}")


def none_ready(name: str) -> Hop:
    """Return a hop that cannot be judged without a ready pod."""
    return Hop(name=name, is_ok=None, text="no pod is ready, so there is nothing to judge")


def unknown_prometheus(name: str, document: Document) -> Hop:
    """Return a hop about which Prometheus could not be asked, or answered with an error."""
    problem = error_of(document)
    if document.get("status") == "error":
        return Hop(
            name=name, is_ok=None, text=f"not known: Prometheus answered with an error: {problem}",
            fix="fix what Prometheus reports (its log has more), then run this again",
        )  # fmt: skip
    return Hop(
        name=name, is_ok=None, text=f"not known: could not ask Prometheus because {problem}",
        fix="is --prometheus right? kubectl -n monitoring port-forward service/prometheus-operated 9090",
    )  # fmt: skip


def unknown_kubectl(name: str, problem: str) -> Hop:
    """Return a hop about which kubectl could not be asked."""
    if "not on PATH" in problem:
        fix = "install kubectl, or save its answers where it is and pass --from DIRECTORY"
    elif re.search(r"Forbidden|Unauthorized|forbidden", problem):
        fix = "ask for that permission (kubectl auth can-i), or let someone who has it save the answer for --from"
    else:
        fix = "kubectl cluster-info must work first (context, network), or pass saved answers with --from DIRECTORY"
    return Hop(name=name, is_ok=None, text=f"not known: could not ask kubectl because {problem}", fix=fix)


def name_some(names: Iterable[str]) -> str:
    """Return "3 pods, e.g. a"."""
    found = sorted(names)
    return f"pod {found[0]}" if len(found) == 1 else f"{len(found)} pods, e.g. {found[0]}"


def judge_coverage(name: str, found: set[str], seen: Evidence) -> Hop:
    """Say whether every ready pod has a value; pods that start need none, pods that leave may have one."""
    lost = seen.fleet.ready - found if seen.fleet else frozenset()
    if lost:
        return Hop(
            name=name, is_ok=False, text=f"no value for {name_some(lost)} (ready)",
            fix="ready within the last minute: look again; else what the hop before has of that pod is lost here",
        )  # fmt: skip
    count = len(seen.fleet.ready) if seen.fleet else len(found)
    return Hop(name=name, is_ok=True, text=f"values for {count} pods")
