"""The configuration of the C++ engine model: strict protobuf text for every release, every parameter as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from trtbuild import catalog
from trtbuild.backends.tensorrt_llm.backend import BACKEND
from trtbuild.errors import BuildError, SpecError
from trtbuild.repository import ServedModel, render_repository
from trtbuild.spec import RepositorySpec

TOKENIZER = Path(__file__).resolve().parents[4] / "examples" / "pydoc-llama"


def write_engine(path: Path, version: str, *, build: dict[str, object] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    document = {
        "version": version,
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "logits_dtype": "float32",
            "vocab_size": 128256,
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        },
        "build_config": {
            "max_batch_size": 64,
            "max_input_len": 4095,
            "max_seq_len": 4096,
            "max_num_tokens": 8192,
            "max_beam_width": 1,
            "plugin_config": {"use_paged_context_fmha": True},
            **(build or {}),
        },
    }
    (path / "config.json").write_text(json.dumps(document))
    (path / "rank0.engine").write_bytes(b"engine")
    return path


def render(engine: Path, spec: RepositorySpec | None = None) -> Any:
    """Return the engine model's parsed configuration, as the repository is written."""
    info = BACKEND.inspect(engine)
    model = ServedModel(
        served_name="front",
        engine_template=BACKEND.template(info, engine, spec or RepositorySpec()),
        engine_info=info,
        tokenizer_dir=TOKENIZER,
    )
    _, files = render_repository([model])
    text = files["tensorrt_llm/config.pbtxt"].decode()
    assert "${" not in text
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("version", catalog.trtllm_versions())
def test_every_release_gets_its_own_parameters_and_tensors(version: str, tmp_path: Path) -> None:
    release = catalog.trtllm(version)
    config = render(write_engine(tmp_path / "engine", version))
    assert (config.name, config.backend, config.max_batch_size) == ("tensorrt_llm", "tensorrtllm", 64)
    assert config.model_transaction_policy.decoupled
    found = parameters(config)
    required = {name for name, parameter in release.backend_parameters.items() if parameter.is_required}
    assert required <= set(found) <= set(release.backend_parameters)
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in release.engine_inputs]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in release.engine_outputs]
    assert {tensor.name for tensor in config.input if not tensor.optional} == {"input_lengths", "request_output_len"}
    assert found["gpt_model_path"] == str(tmp_path / "engine")
    assert found["enable_kv_cache_reuse"] == found["enable_chunked_context"] == "true"
    assert found["kv_cache_free_gpu_mem_fraction"] == "0.9"
    assert "cross_kv_cache_fraction" not in found, "a decoder-only engine does not load with it"
    assert found["FORCE_CPU_ONLY_INPUT_TENSORS"] == "no"


@pytest.mark.parametrize(
    ("version", "names"),
    [("0.19.0", {"min_length", "random_seed"}), ("0.20.0", {"min_tokens", "seed"})],
)
def test_renamed_tensors(version: str, names: set[str], tmp_path: Path) -> None:
    config = render(write_engine(tmp_path / "engine", version))
    seen = {tensor.name for tensor in config.input} & {"min_length", "random_seed", "min_tokens", "seed"}
    assert seen == names


def test_types_follow_the_engine(tmp_path: Path) -> None:
    config = render(write_engine(tmp_path / "engine", "1.2.1"))
    types = {tensor.name: model_config_pb2.DataType.Name(tensor.data_type) for tensor in config.input}
    outputs = {tensor.name: model_config_pb2.DataType.Name(tensor.data_type) for tensor in config.output}
    assert types["prompt_embedding_table"] == "TYPE_BF16"
    assert outputs["context_logits"] == outputs["generation_logits"] == "TYPE_FP32"


def test_parameters_as_asked(tmp_path: Path) -> None:
    spec = RepositorySpec(
        max_queue_size=32,
        kv_cache_free_gpu_mem_fraction=0.75,
        enable_kv_cache_reuse=False,
        enable_chunked_context=False,
        batch_scheduler_policy="max_utilization",
        template_parameter={"gpu_device_ids": "0,1", "lora_cache_max_adapter_size": "128", "multi_block_mode": "off"},
    )
    config = render(write_engine(tmp_path / "engine", "1.2.1", build={"max_beam_width": 4}), spec)
    found = parameters(config)
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 32
    assert found["kv_cache_free_gpu_mem_fraction"] == "0.75"
    assert found["enable_kv_cache_reuse"] == found["enable_chunked_context"] == found["multi_block_mode"] == "false"
    assert found["batch_scheduler_policy"] == "max_utilization"
    assert (found["gpu_device_ids"], found["lora_cache_max_adapter_size"]) == ("0,1", "128")
    assert found["max_beam_width"] == "4"


def test_a_path_with_quotes_survives(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / 'with "quotes" and ünicode', "1.2.1")
    assert parameters(render(engine))["gpt_model_path"] == str(engine)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (RepositorySpec(template_parameter={"decodng_mode": "top_k"}), "did you mean 'decoding_mode'"),
        (RepositorySpec(template_parameter={"decoding_mode": "fast"}), "expected one of top_k"),
        (RepositorySpec(template_parameter={"cuda_graph_mode": "maybe"}), "expected true or false"),
        (RepositorySpec(template_parameter={"gpt_model_path": "/x"}), "trtbuild sets it from its own options"),
        (RepositorySpec(template_parameter={"cross_kv_cache_fraction": "0.5"}), "decoder-only models"),
        (RepositorySpec(template_parameter={"stats_check_period_ms": "often"}), "expected a whole number"),
        (RepositorySpec(kv_cache_free_gpu_mem_fraction=0.0), "more than 0 and at most 1"),
        (RepositorySpec(kv_cache_free_gpu_mem_fraction=1.5), "more than 0 and at most 1"),
    ],
    ids=["unknown", "choice", "bool", "ours", "refused", "int", "no-memory", "too-much"],
)
def test_illegal_parameters(spec: RepositorySpec, said: str, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine", "1.2.1")
    with pytest.raises(SpecError) as caught:
        BACKEND.template(BACKEND.inspect(engine), engine, spec)
    assert said in caught.value.message


def test_reuse_needs_an_engine_built_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_engine(tmp_path / "engine", "1.2.1", build={"plugin_config": {"use_paged_context_fmha": False}})
    found = parameters(render(engine))
    assert found["enable_kv_cache_reuse"] == found["enable_chunked_context"] == "false"
    assert "built with use_paged_context_fmha=disable" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dtype", "logits_dtype"])
@pytest.mark.parametrize("value", ["float4", 5, ["float32"]], ids=str)
def test_a_type_that_triton_has_none_for_is_named(name: str, value: object, tmp_path: Path) -> None:
    engine = write_engine(tmp_path, "1.2.1")
    config = json.loads((engine / "config.json").read_text())
    config["pretrained_config"][name] = value
    (engine / "config.json").write_text(json.dumps(config))
    with pytest.raises(BuildError, match=rf"config\.json of the engine: {name}: expected one of float32, ") as caught:
        BACKEND.template(BACKEND.inspect(engine), engine, RepositorySpec())
    assert caught.value.hint
