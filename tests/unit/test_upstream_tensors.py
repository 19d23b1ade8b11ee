"""Our ensemble and BLS model have every input of TensorRT-LLM's own, whatever the engine, with its type and dims.

Names recorded by tools/record_upstream_tensors.py from triton-inference-server/tensorrtllm_backend, tags v0.17.0,
v0.18.2 and v0.19.0; 1.2.1 typed in from NVIDIA/TensorRT-LLM triton_backend at 2a9abd95 (ensemble) and 0193dbd4 (BLS).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtbuild import catalog
from trtbuild.backends.cpu.backend import _SCALAR_INPUTS
from trtbuild.backends.llmapi.backend import _scalar_inputs
from trtbuild.backends.tensorrt_llm.backend import _tensor
from trtbuild.plan import EngineInfo, EngineTemplate
from trtbuild.repository import ServedModel, render_repository

RECORDED = json.loads((Path(__file__).resolve().parents[1] / "data" / "upstream_tensors.json").read_text())
LOGITS = "${logits_datatype}"
NOT_MADE = {
    *("context_logits", "generation_logits", "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks"),
    *("kv_cache_alloc_total_blocks", "acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens"),
}
"""Outputs of which the cpu and the llmapi engine and the front model know nothing."""


def _engines() -> Iterator[tuple[str, EngineTemplate]]:
    for backend, scalars in (("cpu", _SCALAR_INPUTS), ("llmapi", tuple(_scalar_inputs()))):
        variables: dict[str, Any] = {"max_batch_size": 4, "scalars": [list(pair) for pair in scalars], "parameters": []}
        yield backend, EngineTemplate(directory=f"tensorrt_llm/{backend}", variables=variables)
    for release in catalog.trtllm_releases():
        types = {"logits_datatype": "FP32", "encoder_input_features_data_type": "FP16"}
        types["prompt_embedding_table_data_type"] = "FP16"
        yield (
            release.version,
            EngineTemplate(
                directory="tensorrt_llm/tensorrtllm",
                variables={
                    "trtllm_version": release.version,
                    "max_batch_size": 4,
                    "max_queue_size": 0,
                    "inputs": [_tensor(tensor, types) for tensor in release.engine_inputs],
                    "outputs": [_tensor(tensor, types) for tensor in release.engine_outputs],
                    "parameters": [],
                },
            ),
        )


ENGINES = dict(_engines())


def _configs(engine: str, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    (tmp_path / "tokenizer.json").write_text("{}")
    info = EngineInfo(
        backend="cpu", tp_size=1, pp_size=1, max_batch_size=4, max_input_len=64, max_seq_len=128, max_num_tokens=64,
        dtype="float32", vocab_size=100,
    )  # fmt: skip
    model = ServedModel(
        served_name="chat", engine_template=ENGINES[engine], engine_info=info, tokenizer_dir=tmp_path, layout="full",
        **fields,
    )  # fmt: skip
    _, files = render_repository([model])
    return {
        name: text_format.Parse(files[f"{name}/config.pbtxt"].decode(), ModelConfig())
        for name in ("ensemble", "tensorrt_llm_bls", "tensorrt_llm")
    }


def _shown(tensor: Any) -> str:
    from tritonclient.grpc.model_config_pb2 import DataType

    return f"{DataType.Name(tensor.data_type).removeprefix('TYPE_')} [{', '.join(map(str, tensor.dims))}]"


@pytest.mark.parametrize("is_decoupled", [pytest.param(True, id="decoupled"), pytest.param(False, id="one-response")])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_input_of_upstream_s_models_is_declared(engine: str, is_decoupled: bool, tmp_path: Path) -> None:
    configs = _configs(engine, tmp_path, decoupled=is_decoupled)
    assert set(RECORDED) == {"0.17.0", "0.18.2", "0.19.0", "1.2.1"}
    for version, models in RECORDED.items():
        for name, sides in models.items():
            ours = {tensor.name: _shown(tensor) for tensor in configs[name].input}
            theirs = sides["input"]
            assert len(theirs) > 30
            assert {tensor: ours.get(tensor) for tensor in theirs} == theirs, (version, name)
            mandatory = {tensor.name for tensor in configs[name].input if not tensor.optional}
            assert mandatory == {"text_input", "max_tokens"}, name


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_have_upstream_s_types_and_only_those_no_engine_makes_are_missing(engine: str, tmp_path: Path) -> None:
    configs = _configs(engine, tmp_path)
    of_engine = {tensor.name for tensor in configs["tensorrt_llm"].output}
    for models in RECORDED.values():
        for name, sides in models.items():
            ours = {tensor.name: _shown(tensor) for tensor in configs[name].output}
            for tensor, kind in sides["output"].items():
                if tensor in ours:
                    assert ours[tensor] == kind.replace(LOGITS, "FP32"), (name, tensor)
                elif name == "ensemble":
                    assert tensor not in of_engine, tensor
                else:
                    assert tensor in NOT_MADE, tensor
