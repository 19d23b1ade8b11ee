"""A directory made by an enemy is refused by every backend's way through it: by file and field, within memory."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.cpu_parity.checkpoints import CONFIGS, write_checkpoint
from tests.unit.backends.cpu.test_cpu_plan import HOST, read
from trtbuild import backends
from trtbuild.backends.cpu.plan import make_plan
from trtbuild.errors import BuildError, TrtBuildError
from trtbuild.fetch import load_config, local_snapshot
from trtbuild.spec import EngineSpec

NESTED = '{"a":' * 200_000
SHARD = "model-00001-of-00002.safetensors"


def _build(model: Path, work: Path) -> None:
    """Do what a build of the cpu backend does with a directory, in its order, up to the weights."""
    plan = make_plan(EngineSpec(model=str(model)), read(load_config(model)), HOST)
    snapshot = local_snapshot(model)
    backends.get("cpu").build(plan, snapshot, work / "engine", work)


def _config(**change: object) -> Callable[[Path], object]:
    text = json.dumps({**CONFIGS["llama"], **change})
    return lambda model: (model / "config.json").write_text(text)


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


def _index(name: str) -> Callable[[Path], object]:
    text = json.dumps({"weight_map": {"model.norm.weight": name}})
    return lambda model: (model / "model.safetensors.index.json").write_text(text)


def _sparse(name: str, size: int) -> Callable[[Path], object]:
    def write(model: Path) -> None:
        (model / name).touch()
        os.truncate(model / name, size)

    return write


def _pipe(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def _link(name: str) -> Callable[[Path], object]:
    def write(model: Path) -> None:
        (model.parent / "secret").write_text("{}")
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to("../secret")

    return write


def _header(length: int) -> Callable[[Path], object]:
    def write(model: Path) -> None:
        raw = (model / SHARD).read_bytes()
        (model / SHARD).write_bytes(length.to_bytes(8, "little") + raw[8:])

    return write


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        pytest.param(_text("config.json", NESTED), "config.json.*nested too deeply", id="nested config"),
        pytest.param(_text("config.json", "[]"), "config.json.*not a JSON object", id="config is a list"),
        pytest.param(_sparse("config.json", 10 << 30), "config.json.*10,737,418,240 bytes", id="config of 10 GiB"),
        pytest.param(_pipe, "config.json.*expected a regular file", id="config is a pipe"),
        pytest.param(_config(hidden_size=-64), "config.json: hidden_size: .*got -64", id="negative"),
        pytest.param(_config(vocab_size=1e300), "config.json: vocab_size: .*got 1e", id="1e300"),
        pytest.param(_config(vocab_size=10**30), "config.json: vocab_size: .*up to 2,147,483,647", id="10**30"),
        pytest.param(_config(num_hidden_layers="3"), "config.json: num_hidden_layers: .*got '3'", id="text"),
        pytest.param(_config(rope_theta=math.nan), "rope_theta: .*got nan", id="nan"),
        pytest.param(_config(rms_norm_eps=math.inf), "rms_norm_eps: .*got inf", id="infinite"),
        pytest.param(_config(architectures=["\x1b[2J"]), r"architectures: .*'\\x1b\[2J'", id="terminal escapes"),
        pytest.param(_config(text_config=5, num_hidden_layers=None), "num_hidden_layers", id="text_config is a number"),
        pytest.param(_config(quantization_config=[1]), "quantization_config: expected an object", id="quantization"),
        pytest.param(_config(auto_map="x"), "auto_map: expected an object", id="auto_map"),
        pytest.param(
            _sparse("tokenizer.json", 1 << 30), "tokenizer.json has 1.0 GiB, expected at most", id="tokenizer"
        ),
        pytest.param(_text("tokenizer_config.json", NESTED), "tokenizer_config.json.*nested", id="tokenizer_config"),
        pytest.param(_text("generation_config.json", "5"), "generation_config.json is not a JSON", id="generation"),
        pytest.param(_text("model.safetensors.index.json", NESTED), "index.json.*nested too", id="nested index"),
        pytest.param(
            _sparse("model.safetensors.index.json", 10 << 30),
            "index.json has 10.0 GiB, expected at most",
            id="index of 10 GiB",
        ),
        pytest.param(_index("../x.safetensors"), r"index.json.*'../x.safetensors'", id="index leads out"),
        pytest.param(_index("/etc/passwd"), r"index.json.*'/etc/passwd'", id="index is absolute"),
        pytest.param(_link("tokenizer.json"), "tokenizer.json -> .*/secret: the link leads out", id="link"),
        pytest.param(_link("notes.md"), "notes.md -> .*/secret: the link leads out", id="link of any name"),
        pytest.param(_header(1 << 60), f"{SHARD}: .*1152921504606846976 bytes", id="header of 2**60"),
        pytest.param(_header(20 << 20), f"{SHARD}: .*20971520 bytes", id="header of 20 MiB"),
    ],
)
def test_it_is_refused(attack: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_checkpoint("llama", model, shards=2)
    (model / "tokenizer.json").write_text("{}")
    attack(model)
    tracemalloc.start()
    try:
        with pytest.raises(TrtBuildError, match=message) as caught:
            _build(model, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.hint
    assert len(caught.value.message) < 500


ENGINE = {
    "schema": 1, "version": "1.2.1", "versions": {}, "files": {},
    "pretrained_config": {
        "dtype": "float32", "vocab_size": 5, "architecture": "LlamaForCausalLM",
        "mapping": {"tp_size": 1, "pp_size": 1, "world_size": 1},
    },
    "build_config": {"max_batch_size": 8, "max_input_len": 9, "max_seq_len": 10, "max_num_tokens": 11},
}  # fmt: skip


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        "[]",
        "5",
        json.dumps({**ENGINE, "build_config": {**ENGINE["build_config"], "max_seq_len": math.inf}}),  # type: ignore[dict-item]
        json.dumps({**ENGINE, "build_config": 5}),
        json.dumps({**ENGINE, "pretrained_config": {"mapping": [], "dtype": 5, "vocab_size": 7}, "files": []}),
    ],
    ids=["nested", "list", "number", "infinite", "a number for an object", "a list for an object"],
)
def test_an_engine_that_came_from_elsewhere_is_refused(name: str, text: str, tmp_path: Path) -> None:
    """Bundles and shared tiers bring engines that this machine did not build."""
    for file in ("openvino_model.xml", "openvino_model.bin", "rank0.engine"):
        (tmp_path / file).write_bytes(b"x")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(ENGINE))
    assert backends.get(name).inspect(tmp_path).max_seq_len == 10
    path.write_text(text)
    with pytest.raises(BuildError, match=r"config\.json") as caught:
        backends.get(name).inspect(tmp_path)
    assert caught.value.hint
