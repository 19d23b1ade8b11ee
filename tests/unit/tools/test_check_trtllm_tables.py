"""The checker of the TensorRT-LLM tables finds what differs, in source trees and in printed help."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.fakes.toolchain import build_parser
from tools import check_trtllm_tables as checker
from tools.check_llmapi_tables import NO_CHAT, check_llm_api, registered
from trtbuild import catalog
from trtbuild.catalog.loading import load

DATA = Path(__file__).resolve().parents[2] / "data"
RELEASE = catalog.trtllm("1.2.1")


def write_source(root: Path) -> Path:
    """Write a source tree whose parsers have exactly the options of the 1.2.1 table."""
    plugins = [name for name, o in RELEASE.build_options.items() if name.endswith("_plugin") or o.kind == "switch"]
    lines = ["import argparse", "parser = argparse.ArgumentParser()"]
    for name, option in RELEASE.build_options.items():
        if name != option.name or name in plugins:
            continue
        spelled = ", ".join(repr(f"--{spelling}") for spelling in (name, *option.also))
        choices = f", choices={list(option.choices)!r}" if option.choices else ""
        default = ""
        if option.default is not None:
            default = f", default={int(option.default) if option.kind == 'int' else option.default!r}"
        lines.append(f"parser.add_argument({spelled}{choices}{default})")
    write(root / "tensorrt_llm" / "commands" / "build.py", lines)
    write(root / "tensorrt_llm" / "plugin" / "plugin.py", [f"cli_plugin_args = {plugins!r}"])
    tools = [(f.scripts[0], [*f.flags.values(), *f.options], f.dtypes, f.flags["dtype"]) for f in RELEASE.families]
    quantize = RELEASE.quantize
    tools.append((quantize.script, [*quantize.flags.values(), *quantize.options], quantize.dtypes, "--dtype"))
    for script, options, dtypes, dtype_flag in tools:
        lines = ["import argparse", "parser = argparse.ArgumentParser()"]
        for option in options:
            extra = f", choices={list(dtypes)!r}" if option == dtype_flag else ""
            lines.append(f"parser.add_argument({option!r}{extra})")
        write(root / "examples" / script, lines)
    api = catalog.llm_api(RELEASE.version)
    models = root / "tensorrt_llm" / "_torch" / "models"
    write(models / "modeling_all.py", [f'@register_auto_model("{name}")\nclass A: ...' for name in api.architectures])
    names = sorted(api.kv_cache_dtypes)
    write(root / "tensorrt_llm" / "_torch" / "pyexecutor" / "model_loader.py", [f"_VALID_KV_CACHE_DTYPES = {names!r}"])
    write(root / "tensorrt_llm" / "llmapi" / "llm_args.py", ["class TorchLlmArgs:", "    sampler_type: str = 'auto'"])
    methods = [str(entry.get("file", method)) for method, entry in api.quantizations.items()]
    write(root / "tensorrt_llm" / "_torch" / "model_config.py", [f"METHODS = {methods!r}"])
    return root


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_an_equal_source_has_no_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main(["--version", "1.2.1", "--source", str(write_source(tmp_path))]) == 0
    assert capsys.readouterr().out == "TensorRT-LLM 1.2.1: 0 differences\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "tensorrt_llm/commands/build.py",
            "'--max_lora_rank'",
            "'--max_lora_ranks'",
            "--max_lora_rank is in the table, not in the source",
        ),
        ("tensorrt_llm/commands/build.py", "'--max_lora_rank'", "'--x'", "--x is in the source, not in the table"),
        ("tensorrt_llm/commands/build.py", "default=2048", "default=256", "--max_batch_size: default 2048, source 256"),
        ("tensorrt_llm/commands/build.py", "'detailed', ", "", "--profiling_verbosity: choices"),
        ("tensorrt_llm/plugin/plugin.py", "'gemm_plugin', ", "", "--gemm_plugin is in the table, not in the source"),
        ("examples/models/core/gemma/convert_checkpoint.py", "'--world-size'", "'--tp_size'", "--world-size is in"),
        (
            "tensorrt_llm/_torch/models/modeling_all.py",
            '"LlamaForCausalLM"',
            '"Llama"',
            "llmapi: LlamaForCausalLM is in the table, not in the source",
        ),
        (
            "tensorrt_llm/_torch/models/modeling_all.py",
            '"LlamaForCausalLM"',
            '"Llama5ForCausalLM"',
            "llmapi: Llama5ForCausalLM is in the source, not in the table",
        ),
        ("tensorrt_llm/_torch/model_config.py", "'mxfp4'", "'x'", "quantized by mxfp4 are in the table"),
        (
            "tensorrt_llm/_torch/pyexecutor/model_loader.py",
            "'fp8'",
            "'nvfp4'",
            "llmapi: the cache type fp8 is in the table, not in the source",
        ),
        (
            "tensorrt_llm/_torch/pyexecutor/model_loader.py",
            "'fp8'",
            "'fp8', 'nvfp4'",
            "llmapi: the cache type nvfp4 is in the source, not in the table",
        ),
        (
            "tensorrt_llm/llmapi/llm_args.py",
            "sampler_type",
            "sampler",
            "llmapi: the sampler's argument sampler_type is in the table, not in llm_args.py",
        ),
        (
            "examples/models/contrib/opt/convert_checkpoint.py",
            "['float16', ",
            "['auto', 'float16', ",
            "--dtype: choices",
        ),
    ],
    ids=[
        "renamed",
        "new",
        "default",
        "choice",
        "plugin",
        "flag",
        "llm-api",
        "llm-api-new",
        "quantization",
        "no-cache-type",
        "new-cache-type",
        "sampler",
        "dtype",
    ],
)
def test_differences_are_found(file: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    path = write_source(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    lines = [*checker.check_build_source(RELEASE, tmp_path), *checker.check_scripts(RELEASE, tmp_path)]
    lines += check_llm_api(RELEASE.version, tmp_path)
    assert any(said in line for line in lines)


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("SiglipVisionModel", False),
        ("Qwen2ForProcessRewardModel", False),
        ("EAGLE3LlamaForCausalLM", False),
        ("NewForCausalLM", True),
    ],
)
def test_what_does_not_continue_a_text_is_no_difference(name: str, is_named: bool, tmp_path: Path) -> None:
    """Encoders, reward models and drafts are registered, too; nothing plans them."""
    models = write_source(tmp_path) / "tensorrt_llm" / "_torch" / "models"
    write(models / "modeling_more.py", ["@other", f"@register_auto_model('{name}')", "class More: ..."])
    assert name in registered(tmp_path)
    said = f"llmapi: {name} is in the source, not in the table"
    assert list(check_llm_api(RELEASE.version, tmp_path)) == ([said] if is_named else [])


def test_a_tag_is_read_out_of_a_git_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the work tree is at another commit, or absent."""
    source = write_source(tmp_path / "tree")
    author = {"name": "a", "email": "a@example.invalid"}
    options = [word for key, value in author.items() for word in ("-c", f"user.{key}={value}")]

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(source), *options, *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "release")
    git("tag", "v1.2.1")
    (source / "tensorrt_llm" / "plugin" / "plugin.py").unlink()
    git("commit", "-qam", "later")
    arguments = ["--version", "1.2.1", "--git", str(source / ".git")]
    assert checker.main([*arguments, "--tag", "v1.2.1"]) == 0
    assert capsys.readouterr().out == "TensorRT-LLM 1.2.1: 0 differences\n"
    with pytest.raises(SystemExit, match="hint: name a git directory and a tag in it"):
        checker.main([*arguments, "--tag", "v9"])
    with pytest.raises(SystemExit):
        checker.main(arguments)
    assert "--git and --tag go together" in capsys.readouterr().err


def test_every_architecture_of_the_table_is_a_name_that_upstream_registers() -> None:
    """A class may be registered under another name: NemotronNASForCausalLM is, as DeciLMForCausalLM."""
    recorded = json.loads((DATA / "llmapi_architectures.json").read_text())["architectures"]
    table = load("llmapi")["architectures"]
    assert sorted(set(table) - set(recorded)) == []
    assert not [name for name in table if NO_CHAT.search(name)]
    kinds = {item["source"].split()[0] for item in table.values()}
    assert kinds == {"table", "release", "code", "notes"}


def test_a_missing_script_is_found(tmp_path: Path) -> None:
    (write_source(tmp_path) / "examples" / "models" / "core" / "phi" / "convert_checkpoint.py").unlink()
    assert any(line.startswith("phi: none of") for line in checker.check_scripts(RELEASE, tmp_path))


def test_printed_help(tmp_path: Path) -> None:
    text = build_parser("1.2.1").format_help()
    assert list(checker.check_help(RELEASE, text)) == []
    without = text.replace("--max_lora_rank", "--max_lora_size")
    assert {line.rsplit(":", 1)[1].split()[0] for line in checker.check_help(RELEASE, without)} == {
        "--max_lora_rank",
        "--max_lora_size",
    }


def test_nothing_to_compare_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        checker.main(["--version", "1.2.1"])
    assert "pass --source, --git or --help-text" in capsys.readouterr().err
