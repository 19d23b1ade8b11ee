"""What `trtbuild doctor autoscaling` asks each hop for, and how it ends."""

from __future__ import annotations

import copy
import json
import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes.autoscaling import (
    CHECK_FAILED,
    DOWN,
    FORBIDDEN,
    NOT_SERVED,
    Json,
    follows,
    good,
    hpa,
    keda,
    rule,
    rules,
    series,
)
from trtbuild.autoscaling.evidence import Evidence
from trtbuild.autoscaling.signal import APIS
from trtbuild.cli import run

ARGUMENTS = ["doctor", "autoscaling", "-n", "llm"]


def save(directory: Path, documents: Json) -> None:
    for name, document in documents.items():
        if name == "metrics":
            (directory / "metrics.txt").write_text(document)
        elif isinstance(document, dict):
            (directory / f"{name}.json").write_text(json.dumps(document))


def test_saved_answers_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, good())
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("ok  ") == 7
    save(tmp_path, {"series": series()})
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == 3
    shown = capsys.readouterr()
    assert "BROKEN  recorded series" in shown.out
    assert "hint: the rule's selector" in shown.err


@pytest.mark.parametrize(
    ("saved", "code", "text"),
    [
        (f"{DOWN}\n", 3, "custom metrics API: the adapter is registered"),
        ("service unavailable\n", 3, "custom metrics API: the adapter is registered"),
        (f"{FORBIDDEN}\n", 3, "custom metrics API: not known: could not ask kubectl"),
        ("", 2, "custom_metrics.json holds no JSON object"),
        ("{", 2, "custom_metrics.json holds no JSON object"),
    ],
    ids=["adapter-down", "adapter-down-by-curl", "forbidden", "empty", "cut"],
)
def test_saved_words_of_a_failure_are_understood(
    saved: str, code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, good())
    (tmp_path / "custom_metrics.json").write_text(saved)
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == code
    assert text in capsys.readouterr().err


def test_what_is_saved_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = good()
    name = documents["hpa"]["metadata"]["name"] = "chat"
    save(tmp_path, documents)
    monkeypatch.setenv("PATH", str(tmp_path))  # no kubectl
    saved = ["--from", str(tmp_path)]
    assert run([*ARGUMENTS, "--hpa", name, *saved]) == 0
    assert capsys.readouterr().out.count("ok  ") == 7
    assert run([*ARGUMENTS, "--hpa", "other", *saved]) == 2
    assert f"--hpa is other, and hpa.json in {tmp_path} is of chat" in capsys.readouterr().err


def test_asking_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "autoscaling"]) == 2
    assert "pass --prometheus" in capsys.readouterr().err


def test_without_kubectl_the_hops_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run([*ARGUMENTS, "--hpa", "x"]) == 3
    shown = capsys.readouterr()
    assert "BROKEN" not in shown.out
    assert "could not ask kubectl because kubectl is not on PATH" in shown.err
    assert "hint: install kubectl" in shown.err


@pytest.fixture
def prometheus() -> Iterator[tuple[str, Json]]:
    """A listener that answers each path below /api/v1 with what is put under its name, errors as Prometheus does."""
    answers: Json = {}
    asked: list[str] = answers.setdefault("asked", [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            document = answers[re.split(r"[/?]", self.path)[3]]
            self.send_response(422 if document["status"] == "error" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that gives the answer saved under its resource, complains as a real one, and notes its arguments."""
    directory = tmp_path / "kubectl"
    directory.mkdir()
    script = directory / "kubectl"
    script.write_text(f"""#!/bin/sh
cd {directory}
echo "$@" >>asked
echo 'E1121 17:57:09.072589 1 memcache.go:265] "Unhandled Error" err="custom.metrics.k8s.io/v1beta1 is down"' >&2
case "$*" in
*"get hpa"*) file=hpa ;; *"get pods"*) file=pods ;; *scaledobject*.keda.sh*-o*) file=scaled_object ;;
*/custom.*) file=custom_metrics ;; */external.*) file=external_metrics ;; *) file=none ;;
esac
[ -e $file.json ] && exec cat $file.json
echo '{NOT_SERVED}' >&2
exit 1
""")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return directory


LIVE = [*ARGUMENTS, "--hpa", "llama-trtbuild-h100", "--prometheus"]


def test_the_autoscaler_says_what_to_ask_for(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = good() | {
        "hpa": hpa(follows("triton:waiting:requests")),
        "rules": rules(rule("triton:waiting:requests")),
    }
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 0, capsys.readouterr()
    asked = (kubectl / "asked").read_text()
    selector = "app.kubernetes.io/component=server,app.kubernetes.io/instance=llama,trtbuild.dev/sku=h100"
    assert f"get pods -l {selector}" in asked
    path = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/llm/pods/*/triton:waiting:requests"
    assert f"get --raw {path}?labelSelector=app.kubernetes.io/component%3Dserver%2C" in asked
    assert "scaledobject" not in asked
    assert any("query=triton%3Awaiting%3Arequests%7Bnamespace%3D%22llm%22%7D" in line for line in answers["asked"])


def test_keda_is_asked_for_its_own_objects(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = copy.deepcopy(keda())
    del documents["custom_metrics"]
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 0, capsys.readouterr()
    assert "ScaledObject" in capsys.readouterr().out
    asked = (kubectl / "asked").read_text()
    assert "get scaledobjects.keda.sh llama-trtbuild-h100" in asked
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/llm/s0-prometheus"
    assert f"{path}?labelSelector=scaledobject.keda.sh/name=llama-trtbuild-h100" in asked
    assert "custom.metrics" not in asked


def test_keda_that_made_no_autoscaler_is_asked_why(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(kubectl, {"scaled_object": CHECK_FAILED["scaled_object"]})
    assert run([*ARGUMENTS, "--hpa", "llama-trtbuild-h100"]) == 3
    assert "ScaledObject: Ready is False: ScaledObjectCheckFailed" in capsys.readouterr().err


def test_a_metric_that_is_no_name_is_prometheus_to_refuse(prometheus: tuple[str, Json]) -> None:
    url, answers = prometheus
    answers.update(targets=good()["targets"], rules=rules(), query={"status": "error", "error": "parse error"})
    assert run([*ARGUMENTS, "--prometheus", url, "--metric", "bad{"]) == 3


def test_what_prometheus_minds_is_said(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    save(kubectl, good())
    url, answers = prometheus
    failed = {"status": "error", "errorType": "execution", "error": "would load too many samples into memory"}
    answers.update(targets=good()["targets"], rules=good()["rules"], query=failed)
    assert run([*LIVE, url]) == 3
    shown = capsys.readouterr()
    assert "BROKEN" not in shown.out
    assert "execution: would load too many samples into memory" in shown.err


def test_kubectl_without_the_api_names_the_missing_adapter(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = good()
    del documents["custom_metrics"]
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 3
    assert "nothing serves custom.metrics.k8s.io" in capsys.readouterr().err


def test_every_api_has_a_document() -> None:
    assert {api.document for api in APIS.values()} <= set(Evidence.__dataclass_fields__)
