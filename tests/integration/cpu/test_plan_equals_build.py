"""`trtbuild plan` refuses a directory if and only if `trtbuild build` does, and what is built can be served.

The directories are small models with one to three files or values changed at random. ``TRTBUILD_TEST_EXAMPLES`` asks
for more of them, each time others; without it the same few are tried in every run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from tests.data.cpu_parity.checkpoints import CONFIGS, make_tensors, safetensors_bytes
from tests.data.odd_tokenizers.variants import tokenizer_json
from trtbuild.cli import run

pytest.importorskip("openvino_genai")
SHARED = Path(__file__).resolve().parents[3] / "model_repo_templates" / "_shared"
if str(SHARED) not in sys.path:
    sys.path.insert(0, str(SHARED))

from trtbuild_front.text.model import load_text_model  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.timeout(7200)]
EXAMPLES = int(os.environ.get("TRTBUILD_TEST_EXAMPLES", "0"))
BASES = ("llama", "llama3-scaled-tied", "llama-linear-scaled", "mistral-windowed", "qwen3", "gemma", "phi3-longrope",
         "gpt2", "opt")  # fmt: skip
LAYERS = {"num_hidden_layers": 1, "n_layer": 1}
"""A model of one layer builds three times as fast, and its files are wrong in the same ways."""

Change = Callable[[Path], object]
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 2, 3, 4, 7, 8, 16, 24, 32, 63, 64, 65, 128, 256, 320, 321, 512, -1]),
    st.sampled_from([1 << 31, 1 << 64]),
    st.sampled_from([0.0, 0.5, 1.0, 1e-6, 2.5, 10000.0, 1e30, -1.0]),
    st.sampled_from(["", "silu", "gelu", "relu2", "float16", "auto", "</s>", "default", "yarn", "linear", "dynamic"]),
    st.sampled_from([[], {}, [1], [2, 3], ["LlamaForCausalLM"], ["MistralForCausalLM"], {"type": "linear"},
                     {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0},
                     {"rope_type": "default", "rope_theta": 1e6}, {"a": 1}]),
)  # fmt: skip
KEYS = sorted({key for name in BASES for key in CONFIGS[name]} | {
    "attention_bias", "mlp_bias", "head_dim", "rope_parameters", "quantization_config", "auto_map", "text_config",
    "partial_rotary_factor", "use_sliding_window", "layer_types", "torch_dtype", "dtype", "n_inner",
    "max_window_layers", "hidden_activation", "attention_multiplier", "logits_scaling", "pretraining_tp", "use_cache",
    "is_decoder", "final_logit_softcapping", "attention_dropout", "num_experts", "transformers_weights",
    "vision_config",
})  # fmt: skip


def _edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(model: Path) -> None:
        path = model / name
        document = json.loads(path.read_text()) if path.exists() else {}
        if isinstance(document, dict):
            change(document)
            path.write_text(json.dumps(document))

    return apply


def _set(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.__setitem__(key, value)


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(key, None)


def _config_changes() -> st.SearchStrategy[tuple[str, Change]]:
    keys = st.sampled_from(KEYS)
    put = st.tuples(keys, VALUES).map(
        lambda kv: (f"config {kv[0]}={kv[1]!r}", _edit_json("config.json", _set(kv[0], kv[1])))
    )
    drop = keys.map(lambda key: (f"config without {key}", _edit_json("config.json", _drop(key))))
    return st.one_of(put, drop)


def _rewrite(change: Callable[[dict[str, Any]], object], dtype: str = "F32") -> Change:
    """Change tensors by name, and write the one file of the weights anew."""

    def apply(model: Path) -> None:
        tensors = _read(model / "model.safetensors")
        if tensors:
            change(tensors)
            (model / "model.safetensors").write_bytes(safetensors_bytes(tensors, dtype))

    return apply


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        return {
            name: np.frombuffer(data, "<f4", (at["data_offsets"][1] - at["data_offsets"][0]) // 4,
                                8 + length + at["data_offsets"][0]).reshape(at["shape"])
            for name, at in header.items() if name != "__metadata__" and at["dtype"] == "F32"
        }  # fmt: skip
    except (ValueError, KeyError):  # damaged by a change before this one
        return {}


def _nth(number: int, change: Callable[[dict[str, Any], str], object]) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: change(tensors, sorted(tensors)[number % len(tensors)])


def _reshape(tensors: dict[str, Any], name: str) -> None:
    tensors[name] = tensors[name].reshape(-1) if tensors[name].ndim > 1 else tensors[name].reshape(1, -1)


TENSOR_CHANGES: dict[str, Callable[[dict[str, Any], str], object]] = {
    "without": lambda tensors, name: tensors.pop(name),
    "renamed": lambda tensors, name: tensors.__setitem__(f"x.{name}", tensors.pop(name)),
    "without prefix": lambda tensors, name: tensors.__setitem__(name.partition(".")[2], tensors.pop(name)),
    "longer": lambda tensors, name: tensors.__setitem__(name, np.concatenate([tensors[name]] * 2)),
    "shorter": lambda tensors, name: tensors.__setitem__(name, tensors[name][:-1]),
    "of another rank": _reshape,
    "transposed": lambda tensors, name: tensors.__setitem__(name, np.ascontiguousarray(tensors[name].T)),
    "empty": lambda tensors, name: tensors.__setitem__(name, tensors[name][:0]),
    "not a number": lambda tensors, name: tensors.__setitem__(name, tensors[name] * np.float32("nan")),
    "huge": lambda tensors, name: tensors.__setitem__(name, tensors[name] * np.float32(1e30)),
    "twice": lambda tensors, name: tensors.__setitem__(f"{name}.copy", tensors[name]),
}


def _patch_header(old: bytes, new: bytes) -> Change:
    def apply(model: Path) -> None:
        path = model / "model.safetensors"
        data = path.read_bytes() if path.exists() else b""
        path.write_bytes(data.replace(old, new, 1))

    return apply


def _shards(index: Callable[[dict[str, str]], object]) -> Change:
    def apply(model: Path) -> None:
        tensors = _read(model / "model.safetensors")
        if not tensors:
            return
        (model / "model.safetensors").unlink()
        names, weight_map = sorted(tensors), {}
        for number in range(2):
            part = {name: tensors[name] for name in names[number::2]}
            weight_map |= dict.fromkeys(part, f"part{number}.safetensors")
            (model / f"part{number}.safetensors").write_bytes(safetensors_bytes(part))
        index(weight_map)
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return apply


FILE_CHANGES: dict[str, Change] = {
    "cut": lambda model: os.truncate(model / "model.safetensors", 5000),
    "no weights": lambda model: (model / "model.safetensors").unlink(missing_ok=True),
    "empty weights": lambda model: (model / "model.safetensors").write_bytes(b""),
    "weights are a pointer": lambda model: (model / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "bfloat16": _rewrite(lambda _: None, "BF16"),
    "float16": _rewrite(lambda _: None, "F16"),
    "a type not known": _patch_header(b'"F32"', b'"F99"'),
    "integers": _patch_header(b'"F32"', b'"I32"'),
    "two shards": _shards(lambda _: None),
    "an index that lacks one": _shards(lambda weight_map: weight_map.popitem()),
    "an index that names a file more": _shards(lambda weight_map: weight_map.__setitem__("x", "gone.safetensors")),
    "only pickles": lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin")
    if (model / "model.safetensors").exists() else None,
    "an adapter beside": lambda model: [
        (model / name).write_text("{}") for name in ("adapter_config.json", "adapter_model.safetensors")
    ],
    "other weights beside": lambda model: (model / "other.safetensors").write_bytes(b"junk"),
    "code beside": lambda model: (model / "modeling.py").write_text("raise SystemExit"),
    "no tokenizer": lambda model: (model / "tokenizer.json").unlink(missing_ok=True),
    "a sentencepiece tokenizer": lambda model: (model / "tokenizer.json").rename(model / "tokenizer.model")
    if (model / "tokenizer.json").exists() else None,
    "a modelopt file": lambda model: (model / "hf_quant_config.json").write_text(
        '{"quantization": {"quant_algo": "FP8"}}'
    ),
    "a template that does not compile": lambda model: (model / "chat_template.jinja").write_text("{% if %}"),
    "a template": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
    "a template directory": lambda model: (model / "chat_template.jinja").mkdir(exist_ok=True),
    "a tokenizer_config directory": lambda model: (model / "tokenizer_config.json").mkdir(exist_ok=True),
    "a generation_config directory": lambda model: (model / "generation_config.json").mkdir(exist_ok=True),
}  # fmt: skip


def _weight_changes() -> st.SearchStrategy[tuple[str, Change]]:
    one = st.tuples(st.sampled_from(sorted(TENSOR_CHANGES)), st.integers(0, 200)).map(
        lambda pair: (f"tensor {pair[1]} {pair[0]}", _rewrite(_nth(pair[1], TENSOR_CHANGES[pair[0]])))
    )
    files = st.sampled_from(sorted(FILE_CHANGES)).map(lambda name: (name, FILE_CHANGES[name]))
    return st.one_of(one, files)


TOKENIZER_PARTS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model")  # fmt: skip
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens", "added_tokens_decoder",
         "chat_template", "add_bos_token", "tokenizer_class", "model_max_length", "clean_up_tokenization_spaces",
         "extra_special_tokens", "legacy")  # fmt: skip
TEXTS = st.one_of(
    VALUES,
    st.sampled_from([
        "<s>", "<new>", {"content": "<s>", "lstrip": True}, {"content": 5}, ["<a>", "<a>"], ["<|tool|>"], [5],
        {"0": {"content": "<unk>"}}, {"900": {"content": "<far>", "special": True}}, {"x": {"content": "<y>"}},
        "{{ x }}", {"1": {"content": "<other>"}}, {"type": "ByteLevel"}, {"type": "Nothing"},
        {"type": "BPE", "vocab": {}},
        {"type": "BPE", "vocab": {"a": 0}, "merges": []}, {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
        [{"id": 0, "content": "<s>"}], {"image_token": "<image>"}, [{"name": "default", "template": "{{ x }}"}],
    ]),
)  # fmt: skip


def _tokenizer_changes() -> st.SearchStrategy[tuple[str, Change]]:
    def change(name: str, keys: tuple[str, ...]) -> st.SearchStrategy[tuple[str, Change]]:
        return st.tuples(st.sampled_from(keys), TEXTS).map(
            lambda kv: (f"{name} {kv[0]}={kv[1]!r}", _edit_json(name, _set(kv[0], kv[1])))
        )

    junk = st.tuples(
        st.sampled_from(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                         "generation_config.json", "chat_template.json", "chat_template.jinja", "config.json"]),
        st.sampled_from(["", "{", "[]", "5", "null", '"x"', "{}", "\x00", "{{ messages }}"]),
    ).map(lambda pair: (f"{pair[0]} is {pair[1]!r}", lambda model: (model / pair[0]).write_text(pair[1])))  # fmt: skip
    generation = ("eos_token_id", "pad_token_id", "bos_token_id", "temperature", "do_sample")
    return st.one_of(
        change("tokenizer.json", TOKENIZER_PARTS),
        change("tokenizer_config.json", NAMED),
        change("special_tokens_map.json", NAMED[:5]),
        change("added_tokens.json", ("<s>", "<new>", "<far>")),
        change("generation_config.json", generation),
        junk,
    )


OPTIONS: tuple[tuple[str, ...], ...] = (
    (), ("--quantization", "int8-weight-only"), ("--quantization", "int4-weight-only"), ("--max-seq-len", "64"),
    ("--dtype", "bfloat16"), ("--allow-pickle",), ("--max-input-len", "200"), ("--kv-cache-tokens", "64"),
)  # fmt: skip
CHANGES = st.one_of(_config_changes(), _weight_changes(), _tokenizer_changes())


def write_model(name: str, directory: Path) -> None:
    config = {**CONFIGS[name], **{key: value for key, value in LAYERS.items() if key in CONFIGS[name]}}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    tensors = make_tensors(config, seed=zlib.crc32(name.encode()))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; return its exit code and what it said at last."""

    def asked(*words: str) -> tuple[int, str]:
        code = run(list(words))
        said = capsys.readouterr()
        error = [line for line in said.err.splitlines() if line.startswith(("error:", "hint:"))]
        assert code == 0 or (len(error) >= 2 and error[-1].startswith("hint:")), said.err
        assert code != 1, said.err
        return code, "\n".join(error) if code else said.out

    return asked


@settings(
    max_examples=EXAMPLES or 25, derandomize=not EXAMPLES, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    base=st.sampled_from(BASES),
    changes=st.lists(CHANGES, min_size=1, max_size=3),
    said=st.sampled_from(OPTIONS),
)
def test_plan_refuses_what_build_refuses(
    ask: Callable[..., tuple[int, str]], base: str, changes: list[tuple[str, Change]], said: tuple[str, ...]
) -> None:
    root = Path(tempfile.mkdtemp(prefix="trtbuild-plan-"))
    try:
        model, store = root / "model", root / "store"
        write_model(base, model)
        for what, change in changes:
            note(f"{base}: {what}")
            try:
                change(model)
            except OSError:  # what is to be changed is gone, or a directory now
                continue
        options = [str(model), "--backend", "cpu", "--store", str(store), "--hf-cache", str(root / "hub"), *said]
        planned, why = ask("plan", *options)
        built, error = ask("build", *options, "--layout", "full")
        note(f"plan {planned} {why if planned else ''}\nbuild {built} {error}")
        event("built" if not built else f"refused with {built}")
        assert (planned, why if planned else "") == (built, error if built else "")
        elsewhere, _ = ask("plan", str(model), "--gpu", "h100", *options[3:7])
        if built:
            return
        note(f"plan --gpu h100: {elsewhere}")
        [tokenizer] = (store / "engines").glob("*/**/tokenizer")
        load_text_model(tokenizer, with_template=False)
    finally:
        shutil.rmtree(root)
