"""TensorRT-LLM tables: which release's facts apply, and that they agree with themselves."""

from __future__ import annotations

import itertools

import pytest

from trtbuild import catalog
from trtbuild.catalog import TrtLlmRelease
from trtbuild.errors import HostError

RELEASES = catalog.trtllm_releases()


@pytest.mark.parametrize(
    ("installed", "tables"),
    [
        ("0.17.0", "0.17.0"),
        ("0.17.0.post1", "0.17.0.post1"),
        ("0.18.1", "0.18.0"),
        ("0.20.0", "0.20.0"),
        ("1.0.1", "1.0.0"),
        ("1.0.3.2510", "1.0.3.2510"),
        ("1.1.0rc6", "1.1.0"),
        ("1.2.1", "1.2.1"),
        ("1.2.9", "1.2.1"),
    ],
)
def test_an_installed_version_finds_its_tables(installed: str, tables: str) -> None:
    release = catalog.trtllm(installed)
    assert (release.version, release.installed) == (tables, installed)


@pytest.mark.parametrize(
    ("installed", "said", "hint"),
    [
        ("0.9.0", "24.04", "25.07-trtllm-python-py3 to"),
        ("0.16.0", "24.12-trtllm-python-py3) is too old: supported are 0.17.0 to 1.2.1", "26.07-trtllm-python-py3"),
        ("0.7.1", "too old", "25.07-trtllm-python-py3"),
        ("1.3.0rc10", "a pre-release whose options are in no table", "--backend llmapi"),
        ("1.3.0rc21", "trtllm-build was removed after 1.3.0rc20", "--backend llmapi"),
        ("2.0.0", "cannot build engines", "26.07-trtllm-python-py3"),
        ("unknown", "expected a version such as 1.2.1, got 'unknown'", "run in one of the images"),
    ],
)
def test_unsupported_versions_name_what_to_use(installed: str, said: str, hint: str) -> None:
    with pytest.raises(HostError) as caught:
        catalog.trtllm(installed)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_versions_sort_as_packages_do() -> None:
    ordered = [
        "0.9.0", "0.17.0", "0.17.0.post1", "0.18.2", "1.0.0rc3", "1.0.0", "1.0.3.2510", "1.1.0.dev1", "1.1.0", "1.2.1",
        "1.3.0rc9", "1.3.0rc20", "1.3.0",
    ]  # fmt: skip
    shuffled = ordered[::2] + ordered[1::2]
    assert sorted(shuffled, key=catalog.parse_version) == ordered
    assert catalog.parse_version("1.0") == catalog.parse_version("1.0.0")


def test_every_release_of_the_supported_images_is_there_in_order() -> None:
    keys = [catalog.parse_version(version) for version in catalog.trtllm_versions()]
    assert keys == sorted(set(keys))
    tags = [tag for release in RELEASES for tag in release.triton]
    assert tags == [f"{year}.{month:02}" for year in (25, 26) for month in range(1, 13)][: len(tags)]
    assert tags[-1] == "26.07"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_tables_agree_with_themselves(release: TrtLlmRelease) -> None:
    for name, option in release.build_options.items():
        assert name == option.name or name in option.also
        assert (option.kind in {"choice", "switch"}) == bool(option.choices)
        assert option.default is None or not option.choices or option.default in option.choices
    for family in release.families:
        assert {"model", "output", "tp", "dtype"} <= set(family.flags)
        known = {*family.flags.values(), *family.options}
        assert {word for word in itertools.chain(family.fixed, *family.weight_only.values()) if word[0] == "-"} <= known
    for parameter in release.backend_parameters.values():
        assert parameter.default is None or not parameter.choices or parameter.default in parameter.choices
    assert {preset.qformat for preset in catalog.presets()} <= set(release.quantize.qformats)
    architectures = {name for family in release.families for name in family.architectures}
    named = {name for known in release.quantize.presets.values() for name in known}
    assert named <= {preset.name for preset in catalog.presets() if preset.is_calibrated}
    assert set(release.quantize.presets) - {"Qwen3ForCausalLM"} <= architectures
    assert all(image.startswith("nvcr.io/nvidia/tritonserver:") for image in release.images)


@pytest.mark.parametrize(
    ("option", "first", "last"),
    [
        ("auto_parallel", "0.17.0", "1.1.0"),
        ("cluster_key", "0.17.0", "1.1.0"),
        ("gemm_plugin", "0.17.0", "1.2.1"),
        ("max_decoder_seq_len", "0.17.0", "1.2.1"),
        ("norm_quant_fusion", "0.19.0", "1.2.1"),
        ("gemm_allreduce_plugin", "0.19.0", "1.2.1"),
        ("low_latency_gemm_swiglu_plugin", "0.17.0", "1.2.1"),
        ("pp_reduce_scatter", "0.17.0", "1.2.1"),
        ("monitor_memory", "0.17.0", "1.2.1"),
        ("streamingllm", "0.17.0", "1.0.3.2510"),
    ],
)
def test_options_come_and_go(option: str, first: str, last: str) -> None:
    having = [release.version for release in RELEASES if option in release.build_options]
    assert (having[0], having[-1]) == (first, last)


# The engine's key holds the defaults: the config.json of an engine built with 0.17.0.post1 says 64, false and false.
@pytest.mark.parametrize(
    ("version", "defaults"),
    [
        ("0.17.0.post1", ("64", "disable", "disable")),
        ("0.18.1", ("64", "disable", "disable")),
        ("0.18.2", ("64", "disable", "disable")),
        ("0.19.0", ("32", "enable", "enable")),
        ("0.20.0", ("32", "enable", "enable")),
        ("1.2.1", ("32", "enable", "enable")),
    ],
)
def test_defaults_are_those_of_the_release(version: str, defaults: tuple[str, ...]) -> None:
    options = catalog.trtllm(version).build_options
    names = ("tokens_per_block", "use_paged_context_fmha", "use_fp8_context_fmha")
    assert tuple(options[name].default for name in names) == defaults


def test_the_backend_reuses_the_cache_by_default_since_0_19() -> None:
    old, new = (catalog.trtllm(v).backend_parameters["enable_kv_cache_reuse"] for v in ("0.18.2", "0.19.0"))
    assert (old.default, new.default) == ("false", "true")


# Options removed before the first supported release: a recipe that names them must be told.
@pytest.mark.parametrize("option", ["max_output_len", "tp_size", "use_custom_all_reduce", "builder_opt", "enable_xqa"])
def test_options_of_old_recipes_are_unknown(option: str) -> None:
    assert all(option not in release.build_options for release in RELEASES)


@pytest.mark.parametrize(
    ("version", "scripts"),
    [
        ("0.18.2", ("llama/convert_checkpoint.py",)),
        ("0.19.0", ("models/core/llama/convert_checkpoint.py", "llama/convert_checkpoint.py")),
        ("0.20.0", ("models/core/llama/convert_checkpoint.py",)),
        ("1.2.1", ("models/core/llama/convert_checkpoint.py",)),
    ],
)
def test_script_paths(version: str, scripts: tuple[str, ...]) -> None:
    family = catalog.find_family(catalog.trtllm(version), "MixtralForCausalLM")
    assert family is not None
    assert (family.name, family.scripts) == ("llama", scripts)


def test_family_peculiarities() -> None:
    release = catalog.trtllm("1.2.1")
    gemma, opt, phi = (
        catalog.find_family(release, name) for name in ("Gemma2ForCausalLM", "OPTForCausalLM", "Phi3ForCausalLM")
    )
    assert gemma is not None
    assert opt is not None
    assert phi is not None
    assert gemma.flags["tp"] == "--world-size"
    assert "pp" not in gemma.flags
    assert "workers" not in gemma.flags
    assert "auto" not in opt.dtypes
    assert "cpu" not in opt.flags
    assert gemma.pp_sizes == opt.pp_sizes == phi.pp_sizes == (1,)


def test_qwen3_came_with_1_0() -> None:
    assert catalog.find_family(catalog.trtllm("0.21.0"), "Qwen3ForCausalLM") is None
    assert catalog.find_family(catalog.trtllm("1.0.0"), "Qwen3ForCausalLM") is not None


def test_template_facts_by_release() -> None:
    old, newer, renamed, newest = (catalog.trtllm(version) for version in ("0.18.2", "0.19.0", "0.20.0", "1.2.1"))
    assert "guided_decoding_backend" not in old.backend_parameters
    assert newer.backend_parameters["guided_decoding_backend"].is_required
    assert "prompt_embedding_table_data_type" not in newer.template_placeholders["tensorrt_llm"]
    assert "prompt_embedding_table_data_type" in newest.template_placeholders["tensorrt_llm_bls"]
    assert (newer.tensor_names["min_tokens"], renamed.tensor_names["min_tokens"]) == ("min_length", "min_tokens")
    assert (newer.tensor_names["seed"], renamed.tensor_names["seed"]) == ("random_seed", "seed")
    assert "prompt_embedding_table_data_type" not in renamed.template_placeholders["tensorrt_llm"]
    assert (old.has_llmapi, newer.has_llmapi) == (False, True)


@pytest.mark.parametrize("model", catalog.models(), ids=lambda model: model.name)
def test_the_newest_release_converts_every_catalog_model(model: catalog.ModelInfo) -> None:
    assert catalog.find_family(RELEASES[-1], model.architecture) is not None
