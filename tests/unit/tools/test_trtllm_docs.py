"""docs/tensorrt-llm.md says what the catalog and the plan say."""

from __future__ import annotations

import re

import pytest

from tests.fakes.machines import gpu_host, resolved
from tools import trtllm_docs
from trtbuild import backends, catalog
from trtbuild.spec import OPTIONS, EngineSpec

PAGE = trtllm_docs.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_catalog() -> None:
    assert trtllm_docs.render(PAGE) == PAGE, "run: python tools/trtllm_docs.py"


def test_every_version_preset_family_and_product_is_named() -> None:
    named = [
        *catalog.trtllm_versions(),
        *(preset.name for preset in catalog.presets()),
        *(name for family in catalog.trtllm_releases()[-1].families for name in (family.name, *family.architectures)),
        *(sku.product for sku in catalog.skus()),
    ]
    assert len(named) > 40
    assert [name for name in named if name not in PAGE] == []


@pytest.mark.parametrize("backend", ["tensorrt_llm", "llmapi"])
def test_every_field_of_a_key_is_named(backend: str) -> None:
    made = backends.get(backend).plan(EngineSpec(model="llama-3-8b"), resolved("llama-3-8b"), gpu_host())
    section = PAGE.partition("## What the engine's key contains")[2].partition("\n## ")[0]
    assert [field for field in made.key.fields if f"`{field}`" not in section] == []


def test_options_that_are_named_exist() -> None:
    release = catalog.trtllm_releases()[-1]
    flags = {flag for option in OPTIONS for flag in (option.flag, *option.flags)}
    builds = re.findall(r"--build-option (\w+)=", PAGE)
    parameters = re.findall(r"--template-parameter (\w+)=", PAGE)
    assert {"lora_plugin"} <= {name for name in builds if name != "NAME"} <= set(release.build_options)
    assert {"gpu_device_ids"} <= set(parameters) <= set(release.backend_parameters)
    ours = re.findall(r"`(--(?:kv|enable|batch|max|template|build|calibration|quantization|orchestrator)[a-z-]*)", PAGE)
    assert len(ours) > 10
    assert set(ours) <= flags


def test_a_table_without_its_place_is_told() -> None:
    with pytest.raises(SystemExit, match="no place for the table versions"):
        trtllm_docs.render("# A page\n")
