"""CONTRIBUTING.md says where a change goes: each change is made there, in a copy of the sources, and has to work."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
PROMISED = {
    "Add a GPU SKU": 1,
    "Add an engine option": 2,
    "Add a family of models to the cpu backend": 2,
    "Add a backend": 5,
}


def section(title: str) -> str:
    """Return the text below a heading of the guide."""
    return GUIDE.split(f"### {title}\n", 1)[1].split("\n### ", 1)[0]


def steps(title: str) -> list[str]:
    """Return the files that a section's list names."""
    return re.findall(r"^- `([^`]+)`:", section(title), re.M)


@dataclass(frozen=True)
class Copy:
    """The sources in another place, where a change can be made and tried."""

    root: Path

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        (self.root / path).write_text(text.replace(old, new))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the copy's ``trtbuild``, without a network."""
        env = {
            **{name: os.environ[name] for name in ("PATH", "XDG_CACHE_HOME", "HF_HOME")},
            "PYTHONPATH": str(self.root / "builder"),
            "HF_HUB_OFFLINE": "1",
            "HOME": str(self.root),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "trtbuild", *arguments]
        return subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, check=False, timeout=120)

    def plan(self, *arguments: str) -> dict[str, Any]:
        done = self.run("plan", *arguments, "--format", "json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("builder", "model_repo_templates", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=skipped)
    return Copy(tmp_path)


@pytest.mark.parametrize("title", PROMISED)
def test_a_change_touches_as_few_files_as_promised(title: str) -> None:
    assert 0 < len(steps(title)) <= PROMISED[title]


@pytest.mark.parametrize("title", PROMISED)
def test_files_of_the_guide_exist(title: str) -> None:
    """With what is there already in the place of what is new."""
    examples = {"BACKEND": "cpu", "FAMILY": "opt"}
    for path in re.findall(r"`([\w./-]+/[\w./-]*)`", section(title)):
        if not path.startswith("1/"):
            there = path.replace("docs/BACKEND", "docs/cpu-engine")
            for word, example in examples.items():
                there = there.replace(word, example)
            assert (ROOT / there).exists(), path


def test_a_sku_is_one_entry(copy: Copy) -> None:
    [path] = steps("Add a GPU SKU")
    assert copy.run("plan", "llama-3-8b", "--gpu", "z900").returncode != 0
    entry = (
        "\n  - nvml_name: NVIDIA Z900 96GB\n    product: NVIDIA-Z900-96GB\n    aliases: [z900]\n    memory_mib: 97871\n"
        '    compute_capability: "9.0"\n'
    )
    text = (copy.root / path).read_text()
    (copy.root / path).write_text(text.rstrip("\n") + entry)
    for name in ("z900", "NVIDIA-Z900-96GB", "NVIDIA Z900 96GB"):
        plan = copy.plan("llama-3-8b", "--gpu", name)
        assert plan["key_fields"]["gpu_product"] == "NVIDIA-Z900-96GB"
    survey = copy.run("plan", "llama-3-8b")
    assert survey.returncode == 0, survey.stderr
    assert "NVIDIA-Z900-96GB" in survey.stdout
    values = copy.run("plan", "llama-3-8b", "--gpu", "z900", "--values")
    assert "products: [NVIDIA-Z900-96GB]" in values.stdout or "- NVIDIA-Z900-96GB" in values.stdout, values.stdout


def test_an_engine_option_is_a_field_and_who_reads_it(copy: Copy) -> None:
    values, options = steps("Add an engine option")
    copy.edit(
        values,
        "    build_option: Mapping[str, str] = no_pairs(",
        '    spare_tokens: int | None = option("Tokens to spare.", default=None, minimum=1)\n'
        "    build_option: Mapping[str, str] = no_pairs(",
    )
    unread = copy.run("plan", "examples/pydoc-llama", "--backend", "cpu", "--spare-tokens", "3")
    assert unread.returncode == 2
    assert "spare_tokens=3" in unread.stderr
    copy.edit(options, '"kv_cache_tokens",', '"kv_cache_tokens", "spare_tokens",')
    assert copy.plan("examples/pydoc-llama", "--backend", "cpu", "--spare-tokens", "3")
    elsewhere = copy.run("plan", "llama-3-8b", "--gpu", "h100", "--spare-tokens", "3")
    assert elsewhere.returncode == 2
    assert "the tensorrt_llm backend does not read it" in elsewhere.stderr
    assert copy.run("plan", "examples/pydoc-llama", "--spare-tokens", "0").returncode == 2
    assert "--spare-tokens" in copy.run("build", "--help").stdout
    (copy.root / "spec.yaml").write_text("model: examples/pydoc-llama\nbackend: cpu\nspare_tokens: 3\n")
    assert copy.plan("--config", "spec.yaml")


def test_a_family_is_a_file_and_a_place_in_the_list(copy: Copy) -> None:
    family, families = (path.replace("FAMILY", "toy") for path in steps("Add a family of models to the cpu backend"))
    config = copy.root / "examples" / "pydoc-llama" / "config.json"
    text = config.read_text().replace("LlamaForCausalLM", "ToyForCausalLM")
    config.write_text(json.dumps({**json.loads(text), "model_type": "toy"}))
    refused = copy.run("plan", "examples/pydoc-llama", "--backend", "cpu")
    assert "the cpu backend does not build ToyForCausalLM" in refused.stderr
    (copy.root / family).write_text(
        '"""Toys, which are small Llamas."""\n\n'
        "from trtbuild.backends.cpu.families import llama\n"
        "from trtbuild.backends.cpu.families.family import Family\n\n"
        'FAMILY = Family(architectures={"ToyForCausalLM": "Toy"}, read=llama.FAMILY.read, build=llama.FAMILY.build)\n'
    )
    copy.edit(families, "import gpt2, llama, opt\n", "import gpt2, llama, opt, toy\n")
    copy.edit(families, "opt.FAMILY)", "opt.FAMILY, toy.FAMILY)")
    assert copy.plan("examples/pydoc-llama", "--backend", "cpu")["backend"] == "cpu"


def test_a_backend_is_an_entry_and_a_package(copy: Copy) -> None:
    """Template, chart and page are of no use without these two files, and these two work without them."""
    registry, module, *_ = (path.replace("BACKEND", "toy") for path in steps("Add a backend"))
    assert copy.run("plan", "examples/pydoc-llama", "--backend", "toy").returncode == 2
    copy.edit(
        registry,
        ')\n"""Best first:',
        '    BackendInfo(\n        name="toy", module="trtbuild.backends.toy.backend",\n'
        '        needs_gpu=False, package="openvino",\n'
        '        distributions={"openvino": ("openvino",)},\n    ),\n)\n"""Best first:',
    )
    (copy.root / module).parent.mkdir()
    (copy.root / module).with_name("__init__.py").touch()
    (copy.root / module).write_text(
        '"""The cpu backend by another name."""\n\n'
        "from dataclasses import replace\n\n"
        "from trtbuild.backends.cpu.backend import CpuBackend\n\n\n"
        "class ToyBackend(CpuBackend):\n"
        '    name = "toy"\n\n'
        "    def plan(self, spec, model, host):\n"
        '        return replace(super().plan(spec, model, host), backend="toy")\n\n\n'
        'BACKEND = ToyBackend(name="toy")\n'
    )
    assert copy.plan("examples/pydoc-llama", "--backend", "toy")["backend"] == "toy"
    assert "toy" in copy.run("build", "--help").stdout
    assert "toy" in copy.run("doctor").stdout
    assert "toy" in copy.run("plan", "examples/pydoc-llama", "--backend", "nonsense").stderr


def names_in(path: Path, word: str) -> bool:
    """Return whether a file's code names a thing by a string; docstrings and comments may speak of it."""
    text = path.read_text()
    if path.suffix == ".py":
        return any(isinstance(node, ast.Constant) and node.value == word for node in ast.walk(ast.parse(text)))
    return re.search(rf"^([^#]*|.*# @schema.*)\b{re.escape(word)}\b", text, re.M) is not None


def files_that_name(word: str, folders: tuple[str, ...], kinds: frozenset[str]) -> set[str]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    return {str(path.relative_to(ROOT)) for path in found if names_in(path, word)}


CODE = frozenset({".py", ".yaml", ".tpl", ".txt", ".pbtxt", ".toml"})


def test_nothing_else_names_a_backend() -> None:
    """llmapi is named where the guide says, and in data of upstream's: no code asks which backend it is."""
    found = files_that_name("llmapi", ("builder/trtbuild", "model_repo_templates", "chart", "clients"), CODE)
    by_the_guide = {"builder/trtbuild/registry.py", "builder/trtbuild/backends/llmapi/backend.py", "chart/values.yaml"}
    others = {
        "builder/trtbuild/catalog/llmapi.py": "the name of its data file",
        "builder/trtbuild/catalog/trtllm.py": "a column of the releases' table: upstream's template of that name",
        "builder/trtbuild/catalog/trtllm.yaml": "that column",
        "builder/trtbuild/catalog/complaints.yaml": "a hint that recommends it",
        "chart/ci/everything-values.yaml": "a scenario of the tests",
        "chart/templates/_validate.tpl": "why its key/value cache is no signal",
    }
    assert by_the_guide <= found
    assert found - by_the_guide == set(others)


def test_nothing_else_names_a_family() -> None:
    """An architecture stands in its family's file, and in the tables on all models that the guide lists."""
    found = files_that_name("OPTForCausalLM", ("builder/trtbuild",), CODE)
    own = "builder/trtbuild/backends/cpu/families/opt.py"
    assert own in found
    listed = set(re.findall(r"`(builder/[\w./]+)`", section("Add a family of models to the cpu backend")))
    assert found - {own} <= listed
    assert not [path for path in found - {own} if path.startswith("builder/trtbuild/backends/cpu/")]


def test_nothing_else_names_an_option_before_it_is_used() -> None:
    """An option of one backend is named by its field, by that backend, and by no file that passes it on."""
    found = files_that_name("kv_cache_tokens", ("builder/trtbuild", "clients", "chart"), CODE)
    outside = {path for path in found if not path.startswith("builder/trtbuild/backends/cpu/")}
    assert outside <= {"chart/templates/_config.tpl"}, outside


def test_nothing_else_names_a_product() -> None:
    found = files_that_name("NVIDIA-L40S", ("builder/trtbuild", "clients", "chart/templates", "chart/files"), CODE)
    assert found == {"builder/trtbuild/catalog/skus.yaml"}
