"""Architectures that are not built here go through optimum-intel's exporter, a program of its own.

It is played by a small program under its module name: the real one needs torch. What is held is our side: what it is
called with, what becomes of its files, and what its failures look like.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.cpu_parity import checkpoints
from tests.integration.cpu.conftest import build_engine
from trtbuild import backends
from trtbuild.catalog import ModelInfo
from trtbuild.errors import BuildError, ConvertError
from trtbuild.host import inspect_host
from trtbuild.plan import BuildPlan, ResolvedModel
from trtbuild.spec import EngineSpec

pytestmark = pytest.mark.integration
EXPORTER = """
import json, os, pathlib, shutil, sys
mode, source = {mode!r}, pathlib.Path({source!r})
if mode == "fails":
    sys.exit("ValueError: the architecture is not supported")
output = pathlib.Path(sys.argv[-1])
output.mkdir()
(pathlib.Path({record!r})).write_text(json.dumps([sys.argv[1:], os.environ["HF_HUB_OFFLINE"]]))
if mode == "works":
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copyfile(source / name, output / name)
"""


@pytest.fixture
def plan() -> BuildPlan:
    falcon = {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "multi_query": False}
    config = {**checkpoints.CONFIGS["llama"], **falcon}
    model = ResolvedModel(
        model_id="local/falcon",
        revision="tree-0",
        source="directory",
        info=ModelInfo.from_hf_config("local/falcon", config),
    )
    host = inspect_host(os.environ)
    host = replace(host, versions={**host.versions, "optimum_intel": "2.2.0"})
    return backends.get("cpu").plan(EngineSpec(model="falcon", quantization="int8-weight-only"), model, host)


def _export(plan: BuildPlan, mode: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    commands = root / "packages" / "optimum" / "commands"
    commands.mkdir(parents=True)
    source = build_engine(root / "llama") if mode == "works" else root
    text = EXPORTER.format(mode=mode, source=str(source), record=str(root / "record.json"))
    (commands / "optimum_cli.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(root / "packages"))
    checkpoints.write_checkpoint("llama", root / "snapshot")
    engine = root / "engine"
    engine.mkdir()
    (root / "work").mkdir()
    backends.get("cpu").build(plan, root / "snapshot", engine, root / "work")
    return engine


def test_its_model_becomes_an_engine(plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _export(plan, "works", tmp_path, monkeypatch)
    assert backends.get("cpu").inspect(engine).vocab_size == checkpoints.VOCAB
    arguments, offline = json.loads((tmp_path / "record.json").read_text())
    assert arguments[:2] == ["export", "openvino"]
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / "snapshot")
    assert arguments[arguments.index("--weight-format") + 1] == "int8"
    assert "--trust-remote-code" not in arguments
    assert offline == "1"


def test_its_failure_is_shown_with_its_last_words(
    plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConvertError, match="optimum-intel failed with exit code 1") as caught:
        _export(plan, "fails", tmp_path, monkeypatch)
    assert "the architecture is not supported" in caught.value.log_tail[-1]


def test_an_export_without_a_model_is_no_engine(
    plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match="wrote no openvino_model.xml"):
        _export(plan, "empty", tmp_path, monkeypatch)
