"""Keys of engines do not change by accident: recorded ones, and a walk over everything a request can say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.keys import CPU, DATASET, DIRECTORY, ENGINE, LLMAPI, REQUESTS, Request
from trtbuild import backends
from trtbuild.errors import HostError, SpecError
from trtbuild.plan import KEY_SCHEMA, BuildPlan, EngineKey, canonical_json
from trtbuild.spec import BACKENDS, EngineSpec

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "keys"
IN_THE_FIELD = (
    "\nEvery store in the field holds engines under the old keys. With another key they are all misses: each pod "
    "builds again (minutes to hours of GPU time), and the old engines stay until a collection.\n"
    "Right only if the same request now gives other bytes. Then say so in CHANGELOG.md"
)
CALIBRATED = ENGINE.but(quantization="fp8", kv_cache_dtype="fp8", calibration=DATASET)


def _record(plan: BuildPlan) -> dict[str, Any]:
    return {"path": str(plan.key.relative_path), "digest": plan.key.digest, "fields": dict(plan.key.fields)}


def test_every_backend_has_recorded_keys() -> None:
    assert set(REQUESTS) == set(backends.names()) == {path.stem for path in GOLDEN.glob("*.json")}


@pytest.mark.parametrize("backend", REQUESTS)
def test_keys_are_those_recorded(backend: str, update_golden: bool) -> None:
    path = GOLDEN / f"{backend}.json"
    got = {name: _record(request.plan()) for name, request in REQUESTS[backend].items()}
    if update_golden:
        path.write_text(json.dumps(got, indent=2) + "\n")
    wanted = json.loads(path.read_text())
    assert set(got) == set(wanted)
    for name, record in got.items():
        assert record["fields"] == wanted[name]["fields"], f"{backend} {name}: {IN_THE_FIELD}, and --update-golden."
        assert record["digest"] == wanted[name]["digest"], f"{backend} {name}: {IN_THE_FIELD}, and --update-golden."
        assert record["path"] == wanted[name]["path"], (
            f"{backend} {name}: a store finds an engine by this path, so another name of the directory is a miss, too"
            f"{IN_THE_FIELD}, and --update-golden."
        )


def test_the_recorded_digests_are_sha256_of_canonical_json_with_the_schema() -> None:
    """The recipe, written out a second time: other tools, and old versions, find engines by it."""
    assert KEY_SCHEMA == 1, f"KEY_SCHEMA is part of every digest.{IN_THE_FIELD}, and record every key anew."
    for backend in REQUESTS:
        for name, record in json.loads((GOLDEN / f"{backend}.json").read_text()).items():
            text = json.dumps({"schema": 1, **record["fields"]}, sort_keys=True, separators=(",", ":"))
            assert hashlib.sha256(text.encode()).hexdigest() == record["digest"], f"{backend} {name}"


def test_canonical_json_does_not_change() -> None:
    value: dict[str, Any] = {"é": None, "b": [1, 2.5, True, "\u2028"], "a": {"z": "", "y": {}}, "A": -0.0, "c": 1e30}
    text = r'{"A":-0.0,"a":{"y":{},"z":""},"b":[1,2.5,true,"\u2028"],"c":1e+30,"\u00e9":null}'
    assert canonical_json(value) == text, f"canonical_json writes other text.{IN_THE_FIELD}, and raise KEY_SCHEMA."
    key = EngineKey(fields=value, model_part="m", sku_part="s", shape_part="p")
    digest = "d05b23e7a6f3a63a166df15f93cc7f64941b4a1635777cc933e27aec2141d912"
    assert key.digest == digest, f"digests of equal fields changed.{IN_THE_FIELD}, and raise KEY_SCHEMA."
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


OTHER: dict[str, Any] = {
    "dtype": "float16",
    "quantization": "int8-weight-only",
    "kv_cache_dtype": "int8",
    "tp_size": 2,
    "pp_size": 2,
    "max_batch_size": 4,
    "max_input_len": 100,
    "max_seq_len": 2048,
    "max_num_tokens": 512,
    "kv_cache_tokens": 8192,
    "calibration": DIRECTORY,
    "allow_pickle": True,
    "trust_remote_code": True,
}
"""Another value for every field of a request; ``build_option`` has one by backend below."""
OTHER_BUILD_OPTIONS = {
    "cpu": {"compute_type": "bfloat16"},
    "tensorrt_llm": {"max_beam_width": "4"},
    "llmapi": {"a": "1"},
}

SAME_BYTES = {
    ("cpu", "allow_pickle"): "only permits a download; this backend reads safetensors",
    ("tensorrt_llm", "allow_pickle"): "permits to download pickles where a commit has nothing else",
    ("llmapi", "allow_pickle"): "only permits a download; this backend keeps safetensors",
    ("cpu", "trust_remote_code"): "graphs are made without the model's code",
    ("tensorrt_llm", "trust_remote_code"): "permits to run the code of the commit, which is in the key",
    ("tensorrt_llm", "kv_cache_tokens"): "not read: the pool is a share of the GPU's memory, taken at the start",
    ("llmapi", "kv_cache_tokens"): "not read: the pool is a share of the GPU's memory, taken at the start",
}
"""Backend and field that changes nothing about the engine: why its key need not change."""

BASES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(ENGINE, id="tensorrt_llm"),
    pytest.param(CALIBRATED, id="tensorrt_llm-calibrated"),
    pytest.param(LLMAPI, id="llmapi"),
]


def _changed(base: Request, name: str) -> Request:
    if name == "model":
        return dataclasses.replace(base, model="mistral-7b")
    if name == "revision":
        return dataclasses.replace(base, revision="f" * 40)
    if name == "build_option":
        return base.but(build_option=OTHER_BUILD_OPTIONS[base.backend])
    return base.but(**{name: OTHER[name]})


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(EngineSpec) if f.name != "backend"])
def test_each_field_changes_the_key_or_is_refused_or_changes_no_byte(base: Request, name: str) -> None:
    before = base.plan().key.digest
    try:
        is_same = _changed(base, name).plan().key.digest == before
    except (SpecError, HostError) as error:
        assert name in str(error).replace("-", "_") or name in {"model", "quantization"}, f"refused for {error}"
        is_same = False
    assert is_same == ((base.backend, name) in SAME_BYTES), (
        f"{name}: two requests that differ get one engine; add it to the key, refuse it, or say in SAME_BYTES why not"
        if is_same
        else f"{name} changes the key or is refused now: take it out of SAME_BYTES"
    )


def test_each_backend_has_keys_of_its_own() -> None:
    digests = {dataclasses.replace(base, model="mistral-7b").plan().key.digest for base in (CPU, ENGINE, LLMAPI)}
    assert len(digests) == len(BACKENDS) - 1, "one for each but auto"


@pytest.mark.parametrize("name", ["CALIBRATION_SIZE", "CALIBRATION_SEED", "AWQ_BLOCK_SIZE"])
def test_settings_of_the_quantizer_are_in_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtbuild.backends.tensorrt_llm import commands

    before, plain = CALIBRATED.plan().key.digest, ENGINE.plan().key.digest
    monkeypatch.setattr(commands, name, getattr(commands, name) + 1)
    assert CALIBRATED.plan().key.digest != before
    assert ENGINE.plan().key.digest == plain, "an engine that needs no calibration does not depend on it"
