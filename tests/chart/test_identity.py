"""Names, labels and selectors: short enough, matching what they should and nothing else; hostile values stay data."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pytest

from tests.chart.helm import CI, RenderError, ci_values, engine_config, merge, render

NAME = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
LABEL = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
LONG = "a-very-long-release-name-of-fifty-three-characters-xx"
ONE = ci_values("one-sku")


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def pod_labels(item: dict[str, Any]) -> dict[str, str]:
    labels = item["spec"]["template"]["metadata"]["labels"]
    assert isinstance(labels, dict)
    return labels


@pytest.mark.parametrize("name", CI)
def test_deployments_select_their_own_pods_only(name: str) -> None:
    rendered = render(ci_values(name))
    makers = [*rendered.kind("Deployment"), *rendered.kind("Job")]
    for owner, other in itertools.product(rendered.kind("Deployment"), makers):
        assert matches(owner["spec"]["selector"]["matchLabels"], pod_labels(other)) is (owner is other)


@pytest.mark.parametrize("name", CI)
def test_other_selectors_point_at_something(name: str) -> None:
    """Every selector of a budget, policy, monitor or Service finds pods of the release (or of the release it joins)."""
    rendered = render(ci_values(name))
    pods = [pod_labels(item) for item in [*rendered.kind("Deployment"), *rendered.kind("Job")]]
    selectors = [item["spec"]["selector"] for item in rendered.kind("Service")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in rendered.kind("PodDisruptionBudget")]
    selectors += [item["spec"]["selector"]["matchLabels"] for item in rendered.kind("PodMonitor")]
    selectors += [item["spec"]["podSelector"]["matchLabels"] for item in rendered.kind("NetworkPolicy")]
    assert selectors
    for selector in selectors:
        assert any(matches(selector, labels) for labels in pods), selector


def test_service_is_in_front_of_every_sku() -> None:
    values = merge(ci_values("three-skus"), {"balancing": {"type": "kube-proxy"}})
    rendered = render(values)
    selector = rendered.one("Service")["spec"]["selector"]
    assert [matches(selector, pod_labels(item)) for item in rendered.kind("Deployment")] == [True] * 3


def test_disruption_budgets_do_not_overlap() -> None:
    rendered = render(ci_values("three-skus"))
    for deployment in rendered.kind("Deployment"):
        found = [
            budget["metadata"]["name"]
            for budget in rendered.kind("PodDisruptionBudget")
            if matches(budget["spec"]["selector"]["matchLabels"], pod_labels(deployment))
        ]
        assert found == [deployment["metadata"]["name"]]


def test_joined_releases_share_one_service() -> None:
    first = render(ci_values("joined-first"), release="llm-a100")
    second = render(ci_values("joined-second"), release="llm-h100")
    service = first.one("Service")
    assert service["metadata"]["name"] == "llm"
    assert second.kind("Service") == []
    for rendered in (first, second):
        assert matches(service["spec"]["selector"], pod_labels(rendered.one("Deployment")))
    # Each keeps to itself everywhere else.
    for mine, other in ((first, second), (second, first)):
        labels = pod_labels(other.one("Deployment"))
        for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
            assert not matches(mine.one(kind)["spec"]["selector"]["matchLabels"], labels)
    names = Counter(
        (item["kind"], item["metadata"]["name"]) for rendered in (first, second) for item in rendered.objects
    )
    assert max(names.values()) == 1


@pytest.mark.parametrize("name", CI)
@pytest.mark.parametrize("release", ["x", LONG], ids=["short", "long"])
def test_names_and_labels_fit(name: str, release: str) -> None:
    values = {key: value for key, value in ci_values(name).items() if key != "fullnameOverride"}
    rendered = render(values, release=release)
    seen = Counter((item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in rendered.objects)
    assert max(seen.values()) == 1
    for item in rendered.objects:
        assert len(item["metadata"]["name"]) <= 63
        assert NAME.match(item["metadata"]["name"])
        assert all(LABEL.match(value) for value in item["metadata"]["labels"].values())
        if item["kind"] in {"Deployment", "Job"}:
            assert all(LABEL.match(value) for value in pod_labels(item).values())
            assert len(item["metadata"]["name"]) <= 63


def test_long_names_that_differ_late_stay_apart() -> None:
    names = [
        {item["metadata"]["name"] for item in render(merge(ONE, {"fullnameOverride": "n" * 62 + last})).objects}
        for last in "ab"
    ]
    assert not names[0] & names[1]


def test_references_between_objects_hold_for_long_names() -> None:
    values = merge(
        ci_values("everything"), {"fullnameOverride": "", "balancing": {"type": "envoy"}, "service": {"group": ""}}
    )
    rendered = render(values, release=LONG)
    config_maps = {item["metadata"]["name"] for item in rendered.kind("ConfigMap")} | {"company-ca"}
    claims = {item["metadata"]["name"] for item in rendered.kind("PersistentVolumeClaim")}
    deployments = {item["metadata"]["name"] for item in rendered.kind("Deployment")}
    services = {item["metadata"]["name"] for item in rendered.kind("Service")}
    for _, spec in rendered.pod_specs():
        for volume in spec["volumes"]:
            assert volume.get("configMap", {}).get("name") in config_maps | {None}
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}
    for scaler in rendered.kind("HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    backend = rendered.one("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"]
    assert backend in services
    pods = rendered.one(
        "ConfigMap", rendered.one("Deployment", next(n for n in deployments if "envoy" in n))["metadata"]["name"]
    )
    headless = next(name for name in services if name.endswith("-pods"))
    assert f"{headless}.inference.svc.k8s.example" in pods["data"]["envoy.yaml"]


HOSTILE = [
    'quote " and \\ backslash',
    "two\nlines: {a: b}",
    "{{ .Values.model }}",
    "${HOME} $(id) `id`",
    "- list # comment",
    "'single'",
    "|\n  block",
    "é ü \u2028 emoji \U0001f600",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_stay_data(text: str) -> None:
    values: dict[str, Any] = {
        "model": {
            "name": text,
            "revision": text,
            "calibration": text,
            "buildOptions": {text: text},
            "tokenSecret": {"name": text},
        },
        "server": {"args": {"a": text}},
        "hub": {
            "endpoint": text,
            "proxy": {"https": text, "noProxy": text},
            "caBundle": {"configMap": text, "key": text},
        },
        "pod": {"annotations": {"note": text}, "env": [{"name": "X", "value": text}], "priorityClassName": text},
        "commonAnnotations": {"note": text},
        "ingress": {"enabled": True, "host": text, "path": "/" + text, "className": text, "annotations": {"a": text}},
        "service": {"annotations": {"a": text}},
        "monitoring": {"labels": {"a": "b"}},
        "networkPolicy": {"monitoringNamespace": text},
    }
    rendered = render(merge(ONE, values))
    plain = render(merge(ONE, {"ingress": {"enabled": True}}))
    assert [(item["kind"], item["metadata"]["name"]) for item in rendered.objects] == [
        (item["kind"], item["metadata"]["name"]) for item in plain.objects
    ]
    config = engine_config(rendered, "a100")
    assert (config["model"], config["revision"], config["calibration"]) == (text, text, text)
    assert config["build_option"] == {text: text}
    assert config["server_arg"] == {"a": text}
    template = rendered.sku("Deployment", "a100")["spec"]["template"]
    init = template["spec"]["initContainers"][-1]
    env = {item["name"]: item["value"] for item in init["env"]}
    assert (env["X"], env["HF_ENDPOINT"], env["HTTPS_PROXY"], env["NO_PROXY"]) == (text,) * 4
    assert init["command"] == ["trtbuild", "init", "--config", "/etc/trtbuild/engine.yaml"]
    assert template["metadata"]["annotations"]["note"] == text
    assert template["spec"]["priorityClassName"] == text
    rule = rendered.one("Ingress")["spec"]["rules"][0]
    assert (rule["host"], rule["http"]["paths"][0]["path"]) == (text, "/" + text)


def test_pods_cannot_be_moved_out_of_their_selectors() -> None:
    """Labels of the user's never replace those that select."""
    labels = {"trtbuild.dev/sku": "x", "trtbuild.dev/service": "y", "app.kubernetes.io/instance": "z"}
    rendered = render(merge(ONE, {"commonLabels": labels, "pod": {"labels": labels}}))
    deployment = rendered.one("Deployment")
    assert matches(deployment["spec"]["selector"]["matchLabels"], pod_labels(deployment))
    assert matches(rendered.one("Service")["spec"]["selector"], pod_labels(deployment))
    assert pod_labels(deployment)["trtbuild.dev/sku"] == "a100"


# Text to people, numbers, booleans, dates or null to YAML when it stands unquoted.
LOOKALIKES = ["4090", "007", "1e3", "0x10", "on", "off", "no", "y", "n", "true", "null", "2020-01-01", "1-2", "0b1"]


def texts(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every name, namespace, label and annotation of an object, wherever it stands."""
    found: list[tuple[str, Any]] = []
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{path}.{key}"
            if key in {"labels", "matchLabels", "annotations", "nodeSelector"} and isinstance(value, dict):
                found += [(f"{where}.{name}", text) for name, text in value.items()]
            elif key in {"name", "namespace", "claimName", "serviceAccountName", "secretName"}:
                found.append((where, value))
            else:
                found += texts(value, where)
    elif isinstance(node, list):
        for item in node:
            found += texts(item, path)
    return found


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("what", ["SKU", "release", "everything"])
def test_names_that_look_like_other_types_stay_text(what: str, name: str) -> None:
    """The API server refuses a label that is a number, in words that name neither SKU nor release."""
    values = merge(ONE, {"prewarm": {"enabled": True}, "balancing": {"type": "envoy"}, "ingress": {"enabled": True}})
    release = "llama"
    if what != "release":
        values = {**values, "skus": {name: {"gpu": {"products": ["NVIDIA-A100-SXM4-80GB"]}}}}
    if what != "SKU":
        release = name
        values = merge(values, {"fullnameOverride": "llm"})
    if what == "everything":
        values = merge(values, {"nameOverride": name, "serviceAccount": {"name": name}, "service": {"group": name}})
        values = merge(values, {"commonLabels": {"team": name}, "storage": {"models": {"existingClaim": name}}})
        values = merge(values, {"storage": {"models": {"type": "persistentVolumeClaim"}}})
    rendered = render(values, release=release)
    objects = [item for item in rendered.objects if item["kind"] != "PrometheusRule"]
    wrong = [(where, text) for item in objects for where, text in texts(item) if not isinstance(text, str)]
    assert wrong == []
    deployment = rendered.sku("Deployment", name if what != "release" else "a100")
    assert deployment["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    assert matches(deployment["spec"]["selector"]["matchLabels"], pod_labels(deployment))


def test_release_that_cannot_name_a_service_is_refused() -> None:
    """Names of Services begin with a letter (DNS-1035); those of every other object here need not."""
    with pytest.raises(
        RenderError, match=r"Service would be named 123-trtbuild.*fullnameOverride, e\.g\. llm-123-trtbuild"
    ):
        render(ONE, release="123")
    assert render(merge(ONE, {"fullnameOverride": "llm-123"}), release="123").one("Service")
    joined = {"service": {"create": False, "group": "llm"}}
    assert render(merge(ONE, joined), release="123").kind("Service") == []
