"""The whole build of TensorRT-LLM engines over fake tools, for every model, cut and release."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machines import gpu_host, resolved
from tests.fakes.toolchain import Mode, Recorder, lay_out_examples
from trtbuild import catalog
from trtbuild.backends.tensorrt_llm.backend import TIMING_CACHE, TensorRtLlmBackend
from trtbuild.backends.tensorrt_llm.engine import read_config
from trtbuild.console import log
from trtbuild.errors import BuildError, ConvertError, HostError, SpecError, TrtBuildError
from trtbuild.plan import BuildPlan
from trtbuild.process import Command, Completed
from trtbuild.spec import EngineSpec, HostInfo, RepositorySpec

CUTS = [(1, 1), (2, 1), (2, 2)]
NEWEST = catalog.trtllm_versions()[-1]


def backend_for(tmp_path: Path, version: str, mode: Mode | None = None) -> tuple[TensorRtLlmBackend, Recorder]:
    recorder = Recorder(version=version, mode=mode or Mode())
    examples = lay_out_examples(tmp_path / "examples", catalog.trtllm(version))
    return TensorRtLlmBackend(run=recorder, python=Path("/usr/bin/python3"), examples_dir=examples), recorder


def write_snapshot(path: Path, architecture: str = "LlamaForCausalLM") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return path


def planned(alias: str = "llama-3-8b", host: HostInfo | None = None, **options: object) -> BuildPlan:
    spec = EngineSpec(model=alias, **options)  # type: ignore[arg-type]
    return TensorRtLlmBackend().plan(spec, resolved(alias), host or gpu_host())


def cannot(model: catalog.ModelInfo, version: str, tp: int, pp: int) -> bool:
    """Whether upstream cannot build it: uneven heads or MLP, no pipeline stages, an unknown architecture."""
    is_uneven = model.heads % tp or model.intermediate_size % tp or (model.kv_heads % tp and tp % model.kv_heads)
    has_no_stages = model.architecture in {"Gemma2ForCausalLM", "OPTForCausalLM", "Phi3ForCausalLM"}
    is_too_new = model.architecture == "Qwen3ForCausalLM" and version.startswith("0.")
    return bool(is_uneven or (pp > 1 and has_no_stages) or is_too_new)


@pytest.fixture
def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads less for each of thousands of builds; progress itself is tested with the log."""

    @contextlib.contextmanager
    def progress(sink: log.Log, event: str, msg: str, *, total: int | None = None, unit: Any = "bytes") -> Any:
        yield log.Progress(sink, event, msg, total=total, unit=unit)

    monkeypatch.setattr(log.Log, "progress", progress)


@pytest.mark.usefixtures("no_heartbeats")
@pytest.mark.parametrize("version", catalog.trtllm_versions())
def test_every_model_and_cut_builds_or_is_refused(version: str, tmp_path: Path) -> None:
    """Every argv passes the release's own option tables; every engine has every rank."""
    backend, recorder = backend_for(tmp_path, version)
    host = gpu_host("b200", 8, version=version)
    cuts = [*CUTS, (1, 2), (4, 2), (8, 1)] if version == NEWEST else CUTS
    built = 0
    for model in catalog.models():
        snapshot = write_snapshot(tmp_path / "snapshots" / model.architecture, model.architecture)
        for tp, pp in cuts:
            spec = EngineSpec(model=model.name, tp_size=tp, pp_size=pp, trust_remote_code=model.has_remote_code)
            if cannot(model, version, tp, pp):
                with pytest.raises((SpecError, HostError)) as caught:
                    backend.plan(spec, resolved(model.name), host)
                assert "nearest possible" in caught.value.hint
                continue
            plan = backend.plan(spec, resolved(model.name), host)
            # One directory per cut, written anew for each model: thousands of files less.
            work = tmp_path / f"tp{tp}-pp{pp}"
            backend.build(plan, snapshot, work / "engine", work)
            info = backend.inspect(work / "engine")
            assert read_config(work / "engine")["pretrained_config"]["architecture"] == model.architecture
            assert (info.tp_size, info.pp_size, info.dtype) == (tp, pp, plan.shape.dtype)
            assert info.max_seq_len == plan.shape.max_seq_len
            assert info.versions["tensorrt_llm"] == version
            built += 1
    assert len(recorder.commands) == 2 * built
    assert built > len(catalog.models())


@pytest.mark.parametrize("version", ["0.17.0", "0.19.0", "1.2.1"])
@pytest.mark.parametrize("preset", [preset.name for preset in catalog.presets()])
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8", "fp8"])
def test_every_quantization_reaches_its_tool(version: str, preset: str, kv_cache_dtype: str, tmp_path: Path) -> None:
    backend, recorder = backend_for(tmp_path, version)
    data = tmp_path / "calibration"
    data.mkdir()
    sku = "b200" if preset == "nvfp4" else "h100"
    quantizes = catalog.preset(preset).is_calibrated or kv_cache_dtype != "auto"
    options: dict[str, object] = {
        "quantization": preset, "kv_cache_dtype": kv_cache_dtype, "tp_size": 2,
        "calibration": str(data) if quantizes else None,
    }  # fmt: skip
    host = gpu_host(sku, version=version)
    if (preset, kv_cache_dtype) == ("nvfp4", "int8"):
        with pytest.raises(HostError, match="no attention kernels"):
            planned(host=host, **options)
        return
    plan = planned(host=host, **options)
    backend.build(plan, write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    assert ("quantize.py" in recorder.commands[0].argv[1]) == quantizes
    written = json.loads((tmp_path / "engine" / "config.json").read_text())["pretrained_config"]["quantization"]
    expected = {
        "none": None, "int8-weight-only": "W8A16", "int4-weight-only": "W4A16", "int8-sq": "W8A8_SQ_PER_CHANNEL",
        "int4-awq": "W4A16_AWQ", "w4a8-awq": "W4A8_AWQ", "fp8": "FP8", "nvfp4": "NVFP4",
    }  # fmt: skip
    assert written["quant_algo"] == expected[preset]
    assert written["kv_cache_quant_algo"] == (None if kv_cache_dtype == "auto" else kv_cache_dtype.upper())


def test_a_checkpoint_with_another_cache_type_is_not_built(tmp_path: Path) -> None:
    """Quantizers have had caches of their own by default; the engine's key would say something else."""
    backend, recorder = backend_for(tmp_path, "1.2.1")

    def run(command: Command, **options: Any) -> Completed:
        done = recorder(command, **options)
        config = tmp_path / "work" / "checkpoint" / "config.json"
        document = json.loads(config.read_text())
        document["quantization"]["kv_cache_quant_algo"] = "FP8"
        config.write_text(json.dumps(document))
        return done

    meddling = dataclasses.replace(backend, run=run)
    with pytest.raises(ConvertError, match="key/value cache is fp8, expected auto") as caught:
        meddling.build(planned(), write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    assert "--kv-cache-dtype fp8" in caught.value.hint
    assert len(recorder.commands) == 1


def test_user_options_reach_the_compiler(tmp_path: Path) -> None:
    backend, recorder = backend_for(tmp_path, "1.2.1")
    options = {
        "--multiple-profiles": "true",
        "gather_context_logits": "true",
        "strip_plan": "false",
        "lora_plugin": "auto",
        "lora_target_modules": "attn_q attn_k",
        "max_beam_width": "4",
        "gemm_plugin": "auto",
    }
    plan = planned(build_option=options)
    backend.build(plan, write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    line = recorder.commands[-1].shell()
    for words in (
        "--multiple_profiles enable", "--gather_context_logits ", "--lora_target_modules attn_q attn_k",
        "--max_beam_width 4", "--gemm_plugin auto",
    ):  # fmt: skip
        assert words in line
    assert "--strip_plan" not in line
    assert "gemm_plugin bfloat16" not in line


def test_tools_run_offline_in_the_work_directory_with_one_timing_cache(tmp_path: Path) -> None:
    backend, recorder = backend_for(tmp_path, "1.2.1")
    work = tmp_path / "work"
    backend.build(planned(), write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", work)
    convert, build = recorder.commands
    assert convert.env["HF_HUB_OFFLINE"] == "1"
    assert convert.cwd == build.cwd == work
    assert build.argv[build.argv.index("--output_timing_cache") + 1] == str(work / TIMING_CACHE)
    assert (work / TIMING_CACHE).is_file()
    assert {"convert.log", "build.log"} <= {path.name for path in work.iterdir()}


def test_a_dataset_is_fetched_at_its_commit(tmp_path: Path) -> None:
    backend, recorder = backend_for(tmp_path, "1.2.1")
    commit = "b" * 40
    plan = planned(quantization="fp8", calibration=f"abisee/cnn_dailymail@{commit}")
    backend.build(plan, write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    fetch, quantize, _ = recorder.commands
    assert fetch.argv[1:5] == ("-m", "huggingface_hub.cli.hf", "download", "abisee/cnn_dailymail")
    assert fetch.argv[fetch.argv.index("--revision") + 1] == commit
    assert quantize.argv[-1] == str(tmp_path / "work" / "calibration" / "cnn_dailymail")


@pytest.mark.parametrize(
    ("mode", "kind", "said", "hint"),
    [
        (Mode(fail_in="convert", failure="gpu-memory"), ConvertError, "the GPU ran out of memory", "--tp"),
        (Mode(fail_in="convert", failure="killed"), ConvertError, "out of host memory, needs about", "more memory"),
        (Mode(fail_in="convert", failure="library"), ConvertError, "library libnvinfer.so.10 is missing", "image"),
        (Mode(fail_in="convert", failure="disk"), ConvertError, "the disk is full", "store gc"),
        (Mode(fail_in="convert", failure="unknown-error"), ConvertError, "exit code 3", "tool's own words"),
        (Mode(fail_in="convert", failure="partial"), ConvertError, "missing or empty: rank1.safetensors", "gave up"),
        (Mode(fail_in="build", failure="gpu-memory"), BuildError, "the GPU ran out of memory", "--tp"),
        (Mode(fail_in="build", failure="killed"), BuildError, "out of host memory, needs about", "more memory"),
        (Mode(fail_in="build", failure="crash"), BuildError, "the tool crashed", "another version"),
        (Mode(fail_in="build", failure="partial"), BuildError, "incomplete: rank1.engine is missing", "gave up"),
    ],
    ids=lambda value: f"{value.fail_in}-{value.failure}" if isinstance(value, Mode) else None,
)
def test_failures_are_explained(mode: Mode, kind: type[TrtBuildError], said: str, hint: str, tmp_path: Path) -> None:
    backend, _ = backend_for(tmp_path, "1.2.1", mode)
    with pytest.raises(kind) as caught:
        backend.build(planned(tp_size=2), write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    assert said in caught.value.message
    assert hint in caught.value.hint
    if mode.failure in {"gpu-memory", "library", "disk", "unknown-error", "partial"}:
        assert len(caught.value.log_tail) > 1
        assert str(tmp_path / "work") in caught.value.message


def test_a_missing_script_names_what_was_tried(tmp_path: Path) -> None:
    backend = TensorRtLlmBackend(run=Recorder(version="0.19.0"), examples_dir=tmp_path / "nothing")
    with pytest.raises(HostError, match="models/core/llama") as caught:
        backend.build(
            planned(host=gpu_host(version="0.19.0")), write_snapshot(tmp_path / "s"), tmp_path / "e", tmp_path / "w"
        )
    assert "nothing/llama/convert_checkpoint.py" in caught.value.message


def test_the_older_layout_of_scripts_is_found(tmp_path: Path) -> None:
    recorder = Recorder(version="0.19.0")
    script = tmp_path / "examples" / "llama" / "convert_checkpoint.py"
    script.parent.mkdir(parents=True)
    script.touch()
    backend = TensorRtLlmBackend(run=recorder, examples_dir=tmp_path / "examples")
    backend.build(
        planned(host=gpu_host(version="0.19.0")), write_snapshot(tmp_path / "s"), tmp_path / "e", tmp_path / "w"
    )
    assert recorder.commands[0].argv[1] == str(script)


def test_python_code_of_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "snapshot")
    (snapshot / "modeling_custom.py").write_text("raise SystemExit\n")
    config = {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling_custom.Custom"}}
    (snapshot / "config.json").write_text(json.dumps(config))
    backend, recorder = backend_for(tmp_path, "1.2.1")
    with pytest.raises(ConvertError, match=r"modeling_custom\.py") as caught:
        backend.build(planned(), snapshot, tmp_path / "engine", tmp_path / "work")
    assert "--trust-remote-code" in caught.value.hint
    assert not recorder.commands
    backend.build(planned(trust_remote_code=True), snapshot, tmp_path / "engine", tmp_path / "work")
    assert recorder.commands


def test_what_a_build_needs_is_looked_for_before_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    plan = planned(quantization="fp8", calibration=str(data))
    backend, _ = backend_for(tmp_path, "1.2.1")
    backend.check(plan)
    data.rmdir()
    with pytest.raises(SpecError, match="data is not a directory"):
        backend.check(plan)
    with pytest.raises(HostError, match=r"quantize\.py") as caught:
        TensorRtLlmBackend(examples_dir=tmp_path / "nothing").check(plan)
    assert "TRTBUILD_TRTLLM_EXAMPLES" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (RepositorySpec(template_parameter={"decodng_mode": "top_k"}), "did you mean 'decoding_mode'"),
        (RepositorySpec(template_parameter={"gpu_weights_percent": "all"}), "expected a number"),
        (RepositorySpec(kv_cache_free_gpu_mem_fraction=1.5), "at most 1"),
    ],
    ids=["unknown", "type", "fraction"],
)
def test_how_it_is_served_is_checked_before_it_is_built(spec: RepositorySpec, said: str, tmp_path: Path) -> None:
    backend, _ = backend_for(tmp_path, "1.2.1")
    with pytest.raises(SpecError) as caught:
        backend.check_serving(planned(), spec)
    assert said in caught.value.message


def test_missing_calibration_data(tmp_path: Path) -> None:
    backend, _ = backend_for(tmp_path, "1.2.1")
    plan = planned(quantization="fp8", calibration=str(tmp_path / "absent"))
    with pytest.raises(SpecError, match="is not a directory"):
        backend.build(plan, write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A complete engine of two ranks."""
    backend, _ = backend_for(tmp_path, "1.2.1")
    backend.build(planned(tp_size=2), write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work")
    return tmp_path / "engine"


def change(engine: Path, *keys: str, value: object) -> None:
    document = json.loads((engine / "config.json").read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    (engine / "config.json").write_text(json.dumps(document))


def test_damaged_engines_are_refused(engine: Path) -> None:
    backend = TensorRtLlmBackend()
    assert backend.inspect(engine).world_size == 2
    (engine / "rank1.engine").write_bytes(b"")
    with pytest.raises(BuildError, match=r"rank1\.engine is empty"):
        backend.inspect(engine)
    (engine / "rank1.engine").unlink()
    with pytest.raises(BuildError, match=r"rank1\.engine is missing: the engine promises 2 ranks"):
        backend.inspect(engine)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("pretrained_config", "mapping", "world_size"), 4, "world_size 4 is not tp 2 x pp 1"),
        (("pretrained_config", "mapping"), None, "lacks or garbles 'mapping'"),
        (("build_config", "max_batch_size"), "many", "lacks or garbles"),
        (("version",), None, "lacks or garbles 'version'"),
    ],
    ids=["world-size", "no-mapping", "text", "no-version"],
)
def test_contradicting_configs_are_refused(engine: Path, keys: tuple[str, ...], value: object, said: str) -> None:
    change(engine, *keys, value=value)
    with pytest.raises(BuildError) as caught:
        TensorRtLlmBackend().inspect(engine)
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", '{"version": "1.2.1"', None], ids=["empty", "list", "cut", "absent"])
def test_unreadable_configs_are_refused(engine: Path, text: str | None) -> None:
    path = engine / "config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(BuildError, match=r"config\.json"):
        TensorRtLlmBackend().inspect(engine)


def test_an_error_names_the_log_where_it_is_kept(tmp_path: Path) -> None:
    backend, _ = backend_for(tmp_path, "1.2.1", Mode(fail_in="build", failure="partial"))
    with pytest.raises(BuildError) as failed:
        backend.build(
            planned(tp_size=2), write_snapshot(tmp_path / "snapshot"), tmp_path / "engine", tmp_path / "work",
            logs=tmp_path / "kept",
        )  # fmt: skip
    assert f"(whole log: {tmp_path}/kept/build.log)" in failed.value.message
    assert str(tmp_path / "work") not in failed.value.message
