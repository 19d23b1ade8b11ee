"""A model with a damaged file is one error, whichever file it is: exit code 4, the file's name, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import EXAMPLE, Machine

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubStub() as hub:
        shutil.copytree(EXAMPLE, tmp_path / "model")
        yield Machine(directory=tmp_path, hub=hub)


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _field(name: str, value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


INDEX = "model.safetensors.index.json"
BROKEN = [
    pytest.param("config.json", _half, id="config-cut"),
    pytest.param("config.json", _text(""), id="config-empty"),
    pytest.param("config.json", _text("[]"), id="config-list"),
    pytest.param("config.json", lambda path: path.write_bytes(b"\xff\xfe"), id="config-bytes"),
    pytest.param("config.json", _text("[" * 100_000), id="config-nested"),
    pytest.param("config.json", _field("hidden_size", -1), id="config-size"),
    pytest.param("config.json", _field("num_hidden_layers", "many"), id="config-text"),
    pytest.param("config.json", _field("vocab_size", None), id="config-without-vocabulary"),
    pytest.param("config.json", _field("architectures", None), id="config-without-architecture"),
    pytest.param("config.json", _field("num_attention_heads", 10_000), id="config-contradicts-itself"),
    pytest.param(INDEX, _text("{"), id="index-cut"),
    pytest.param(INDEX, _text('{"weight_map": []}'), id="index-list"),
    pytest.param(INDEX, _text('{"weight_map": {"a": "missing.safetensors"}}'), id="index-names-nothing"),
    pytest.param("model.safetensors", _half, id="weights-cut"),
    pytest.param("model.safetensors", _text(""), id="weights-empty"),
    pytest.param("model.safetensors", lambda path: path.write_bytes(b"\xff" * 100), id="weights-garbage"),
    pytest.param("model.safetensors", _text("version https://git-lfs.github.com/spec/v1\n"), id="weights-pointer"),
    pytest.param("tokenizer.json", _text(""), id="tokenizer-empty"),
    pytest.param("tokenizer.json", _half, id="tokenizer-cut"),
    pytest.param("tokenizer_config.json", _text("[]"), id="tokenizer-config-list"),
    pytest.param("generation_config.json", _text("{"), id="generation-config-cut"),
]


@pytest.mark.parametrize(("name", "damage"), BROKEN)
def test_a_damaged_file_is_exit_code_4_with_its_name(
    machine: Machine, name: str, damage: Callable[[Path], object]
) -> None:
    path = machine.directory / "model" / name
    if name == INDEX:
        (path.parent / "model.safetensors").rename(path.parent / "model-00001-of-00001.safetensors")
    damage(path)
    done = machine.run("build", "./model", "--backend", "cpu", code=4)
    assert name.split(".", maxsplit=1)[0] in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_model_is_a_wrong_request(machine: Machine) -> None:
    (machine.directory / "model" / "config.json").unlink()
    machine.run("build", "./model", "--backend", "cpu", code=2)
