"""Models of a small engine, ready to be rendered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trtbuild.plan import EngineInfo, EngineTemplate
from trtbuild.repository import ServedModel

ENGINE = """
name: {{ name | pbtxt }}
backend: "python"
max_batch_size: 4
input [
  { name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "input_lengths" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "request_output_len" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "streaming" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "seed" data_type: TYPE_UINT64 dims: [ 1 ] optional: true },
  { name: "end_id" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output [
  { name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] },
  { name: "sequence_length" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "cum_log_probs" data_type: TYPE_FP32 dims: [ -1 ] }
]
parameters { key: "engine_dir" value { string_value: {{ engine_dir | pbtxt }} } }
"""


INFO = EngineInfo(
    backend="cpu", tp_size=1, pp_size=1, max_batch_size=4, max_input_len=64, max_seq_len=128, max_num_tokens=128,
    dtype="float32", vocab_size=100,
)  # fmt: skip


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., ServedModel]:
    def make(name: str = "chat", *, config: str = ENGINE, engine_dir: str = "/engines/x", **fields: Any) -> ServedModel:
        template = tmp_path / f"template-{abs(hash(config))}"
        (template / "1").mkdir(parents=True, exist_ok=True)
        (template / "config.pbtxt.j2").write_text(config)
        (template / "1" / "model.py").write_text("ENGINE = 1\n")
        tokenizer = tmp_path / "tokenizer"
        tokenizer.mkdir(exist_ok=True)
        (tokenizer / "tokenizer.json").write_text("{}")
        engine = EngineTemplate(directory=str(template), variables={"engine_dir": engine_dir})
        model = ServedModel(served_name=name, engine_template=engine, engine_info=INFO, tokenizer_dir=tokenizer)
        return replace(model, **fields)

    return make


def _tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _parse(files: dict[str, bytes], name: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(files[f"{name}/config.pbtxt"].decode(), ModelConfig())


def _parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}
