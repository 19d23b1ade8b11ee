"""A plan refuses what the build of the same directory refuses, before any work, and its hints help.

That builds refuse exactly the shapes marked as refused, ``tests/integration/cpu/test_odd_models.py`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.odd_models import shapes
from tests.data.odd_tokenizers.variants import tokenizer_json
from tests.unit.backends.cpu.test_cpu_plan import HOST
from trtbuild.cli import run
from trtbuild.errors import TrtBuildError
from trtbuild.fetch import Hub
from trtbuild.pipeline import Context, make_plan
from trtbuild.spec import parse_spec
from trtbuild.store import Store


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr("trtbuild.fetch.template_fault", lambda _: "")  # a process for each; no shape has a template
    hub = Hub(endpoint="http://127.0.0.1:9", is_offline=True)
    host = replace(HOST, versions={**HOST.versions, "openvino": "1", "openvino_genai": "1"})
    return Context(host=host, hub=hub, store=Store(tmp_path / "store"), hf_cache=tmp_path / "hub")


def write(name: str, directory: Path) -> Path:
    shapes.write_shape(name, directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return directory


def plan(directory: Path, ctx: Context, name: str) -> None:
    limits = {"max_seq_len": shapes.SHAPES[name].max_seq_len} if shapes.SHAPES[name].max_seq_len else {}
    make_plan(parse_spec({"model": str(directory), "backend": "cpu", **limits}), ctx)


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_plan_refuses_what_a_build_refuses(name: str, tmp_path: Path, ctx: Context) -> None:
    directory = write(name, tmp_path / "model")
    if not shapes.SHAPES[name].refused:
        plan(directory, ctx, name)
        return
    with pytest.raises(TrtBuildError, match=shapes.SHAPES[name].refused) as caught:
        plan(directory, ctx, name)
    assert caught.value.hint


FOR_A_PRODUCT = {
    "index names the wrong shard": "it is in",
    "untied without a head": "lm_head.weight",
    "one file of a strange name": "weights.safetensors",
    "a missing norm": "model.norm.weight",
}


@pytest.mark.parametrize("words", [["--gpu", "h100"], ["--gpu", "all"], ["--gpu", "h100", "--backend", "llmapi"]])
@pytest.mark.parametrize("name", FOR_A_PRODUCT)
def test_a_plan_for_a_product_looks_at_the_files_too(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(tmp_path / "store"), "--hf-cache", str(tmp_path / "hub"), *words]
    assert run(["plan", str(write(name, tmp_path / "bad")), *words]) == 4
    assert FOR_A_PRODUCT[name] in capsys.readouterr().err
    good = write("two shards", tmp_path / "good")
    assert run(["plan", str(good), *words]) == 0
    (good / "tokenizer.json").write_text("{")
    assert run(["plan", str(good), *words]) == 4
    assert "is not a tokenizer that can be served" in capsys.readouterr().err


def test_a_plan_for_a_product_says_the_key_of_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--store", str(tmp_path / "store"), "--gpu", "h100", "--format", "json"]
    assert run(["plan", str(write("two shards", tmp_path / "model")), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["revision"].startswith("tree-")
    assert document["key"]


def test_a_plan_for_a_product_refuses_files_that_its_backend_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write("two shards", tmp_path / "model")
    words = ["plan", str(model), "--store", str(tmp_path / "store"), "--gpu", "h100"]
    (model / "modeling_x.py").write_text("")
    _set(auto_map={"AutoModel": "modeling_x.X"})(model)
    assert run(words) == 5
    assert "ships Python code that conversion would run: modeling_x.py" in capsys.readouterr().err
    assert run([*words, "--trust-remote-code"]) == 0
    (model / "hf_quant_config.json").write_text("{}")
    assert run([*words, "--backend", "llmapi"]) == 5
    assert "hf_quant_config.json cannot be read" in capsys.readouterr().err


def _set(**values: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        for key, value in values.items():
            config.pop(key, None)
            if value is not None:
                config[key] = value
        (directory / "config.json").write_text(json.dumps(config))

    return change


def _write_index(directory: Path) -> None:
    weight_map = {}
    for path in directory.glob("*.safetensors"):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        weight_map |= {name: path.name for name in header if name != "__metadata__"}
    (directory / shapes.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


ONE_PLACE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("name", "hint", "do"),
    [
        ("one file of a strange name", "rename weights.safetensors to model.safetensors",
         lambda d: (d / "weights.safetensors").rename(d / shapes.SINGLE)),
        ("shards without an index", "write model.safetensors.index.json", _write_index),
        ("index names the wrong shard", "correct weight_map", _write_index),
        ("index leaves a tensor out", "correct weight_map", _write_index),
        ("tied, with a head of its own", '"tie_word_embeddings": false', _set(tie_word_embeddings=False)),
        ("untied without a head", '"tie_word_embeddings": true', _set(tie_word_embeddings=True)),
        ("biases that config.json asks for and the file lacks", "correct attention_bias", _set(attention_bias=False)),
        ("a layer more than config.json says", "num_hidden_layers", _set(num_hidden_layers=3)),
        ("type and rope_type differ", "remove one of them", _set(rope_scaling=shapes.LINEAR)),
        ("scaling without a type", '"rope_type": "linear"', _set(rope_scaling=shapes.LINEAR)),
        ("theta twice, differing", "remove the other", _set(rope_theta=None)),
        ("both, linear by hand", "into rope_parameters", _set(rope_scaling=None, rope_parameters=ONE_PLACE)),
        ("model_type of another class", "correct the wrong one", _set(model_type="llama")),
        ("architectures not said", '"architectures": ["LlamaForCausalLM"]', _set(architectures=["LlamaForCausalLM"])),
        ("context not said", "max_position_embeddings", _set(max_position_embeddings=512)),
        ("gpt2 in two names, differing", "remove the wrong one", _set(num_attention_heads=None)),
        ("gpt2 n_ctx alone", "n_positions", _set(n_positions=256)),
        ("own weight file named", "remove the key", _set(transformers_weights=None)),
        ("longrope, original context not said", "add original_max", _set(original_max_position_embeddings=128)),
    ],
)  # fmt: skip
def test_what_a_hint_says_helps(
    name: str, hint: str, do: Callable[[Path], object], tmp_path: Path, ctx: Context
) -> None:
    directory = write(name, tmp_path / "model")
    with pytest.raises(TrtBuildError) as caught:
        plan(directory, ctx, name)
    assert hint in caught.value.hint
    do(directory)
    plan(directory, ctx, name)
