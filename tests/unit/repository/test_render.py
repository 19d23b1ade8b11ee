"""What a repository holds."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.repository.conftest import _parameters, _parse, _tree
from trtbuild import repository
from trtbuild.errors import RepositoryError
from trtbuild.repository import Origin, ServedModel, quote_pbtxt, render_repository, write_repository
from trtbuild.repository.files import files_below
from trtbuild.repository.render import TEMPLATES as TEMPLATES_DIRECTORY
from trtbuild.repository.render import render_directory

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "repository"
ENGINE_VARIABLES: dict[str, Any] = {
    "name": "m", "max_batch_size": 4, "scalars": [["end_id", "TYPE_INT32"]], "parameters": [["engine_dir", "/x"]],
}  # fmt: skip
FRONT_VARIABLES: dict[str, Any] = {
    "name": "m", "template": "front", "parameters": [], "engine_inputs": {}, "engine_outputs": {},
    "upstream_inputs": {}, "decoupled": True, "tokenizer_dir": "/x", "max_input_len": "8", "engine_batch_size": 4,
    "models": {"front": "m"}, "origin": {},
}  # fmt: skip


def test_the_front_model_knows_its_engine(make_model: Callable[..., ServedModel]) -> None:
    origin = Origin(model_id="org/name", revision="a" * 40, engine_key="e" * 64, built_at=1_700_000_000)
    _, files = render_repository([make_model(max_queue_size=7, origin=origin)])
    front = _parse(files, "chat")
    assert front.model_transaction_policy.decoupled
    assert front.max_batch_size == 0
    assert _parameters(front) == {
        "engine_model": "tensorrt_llm",
        "engine_inputs": "end_id,input_ids,input_lengths,request_output_len,seed,streaming",
        "engine_outputs": "cum_log_probs,output_ids,sequence_length",
        "engine_has_batch_dimension": "true",
        "tokenizer_dir": str(make_model().tokenizer_dir),
        "slots": "4",
        "max_queue_size": "7",
        "max_input_len": "64",
        "max_seq_len": "128",
        "default_max_tokens": "16",
        "engine_knows_front": "true",
        "model_id": "org/name",
        "model_revision": "a" * 40,
        "engine_key": "e" * 64,
        "built_at": "1700000000",
        "echoes_prompt": "false",
        "export_metrics": "true",
    }
    assert {path for path in files if path.startswith("chat/1/trtbuild_front/")} > {
        "chat/1/trtbuild_front/service.py",
        "chat/1/trtbuild_front/text/detokenizer.py",
    }


TEMPLATES = ("front", "preprocessing", "postprocessing", "tensorrt_llm_bls", "tensorrt_llm/cpu", "tensorrt_llm/llmapi")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_model_brings_what_it_imports_and_no_more(template: str) -> None:
    """No link, nothing outside of its directory, and no package that none of its files asks for."""
    files = repository.render_directory(template, "m", FRONT_VARIABLES if "/" not in template else ENGINE_VARIABLES)
    asked, parts = set(), {path.split("/")[2].removesuffix(".py") for path in files if path.startswith("m/1/trtbuild_")}
    for path, data in files.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(data)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name and name.startswith("trtbuild"):
                    asked.add(name.split(".")[0])
                    file = f"m/1/{name.replace('.', '/')}"
                    assert {f"{file}.py", f"{file}/__init__.py"} & files.keys(), (path, name)
    assert asked == parts and "trtbuild_server" in parts


def test_the_templates_hold_no_links() -> None:
    assert not [path for path in repository.TEMPLATES.resolve().rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("backend", ["cpu", "llmapi"])
def test_python_engines_differ_in_their_worker_alone(backend: str) -> None:
    files = repository.render_directory(f"tensorrt_llm/{backend}", "m", ENGINE_VARIABLES)
    other = repository.render_directory("tensorrt_llm/cpu", "m", ENGINE_VARIABLES)
    config = files["m/config.pbtxt"].decode()
    assert config.splitlines()[0].startswith(f"# The engine of the {backend} backend")
    assert config.splitlines()[1:] == other["m/config.pbtxt"].decode().splitlines()[1:]
    differing = {path for path in files | other if files.get(path) != other.get(path)}
    own = {"m/1/engine_worker.py", "m/1/model.py", "m/config.pbtxt"}
    assert differing == (set() if backend == "cpu" else own)


def test_every_stage_of_a_pipeline_has_its_own_slots(make_model: Callable[..., ServedModel]) -> None:
    model = make_model()
    piped = replace(model, engine_info=replace(model.engine_info, tp_size=2, pp_size=3))
    _, files = render_repository([piped])
    assert _parameters(_parse(files, "chat"))["slots"] == "12"


def test_the_full_layout_has_upstream_s_models(make_model: Callable[..., ServedModel]) -> None:
    record, files = render_repository([make_model(layout="full")])
    assert record == {
        "chat": ["chat", "ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"]
    }
    ensemble = _parse(files, "ensemble")
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [
        "preprocessing",
        "tensorrt_llm",
        "postprocessing",
    ]
    steps = {step.model_name: step for step in ensemble.ensemble_scheduling.step}
    assert steps["tensorrt_llm"].input_map["seed"] == steps["preprocessing"].output_map["OUT_SEED"]
    assert steps["preprocessing"].input_map["top_k"] == "top_k"  # this engine has none: a value is refused
    assert files["tensorrt_llm_bls/1/model.py"] == files["chat/1/model.py"]
    assert "ensemble/1/" in files


def test_models_with_one_response_are_no_ensembles(make_model: Callable[..., ServedModel]) -> None:
    """An ensemble is decoupled when a step is, and the engine always streams."""
    _, files = render_repository([make_model(layout="full", decoupled=False)])
    for name in ("chat", "ensemble", "tensorrt_llm_bls"):
        config = _parse(files, name)
        assert (config.model_transaction_policy.decoupled, config.backend) == (False, "python"), name
    assert "image_input" not in {tensor.name for tensor in _parse(files, "ensemble").input}


def test_several_models_have_unique_inner_names(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model("one", layout="full"), make_model("two")])
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "one", "ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls", "two",
        "two-tensorrt_llm",
    }  # fmt: skip
    assert 'string_value: "two-tensorrt_llm"' in (root / "two" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("engine_dir", "is_refused"),
    [
        pytest.param('/odd "quoted" \\ path\n', False, id="quotes"),
        pytest.param("/größe/日本", False, id="unicode"),
        pytest.param("/a{b}$c", False, id="braces"),
        pytest.param("/a/${HOME}", True, id="shell-variable"),
        pytest.param("/a/{{ name }}", True, id="template"),
    ],
)
def test_values_are_escaped_or_refused(
    make_model: Callable[..., ServedModel], engine_dir: str, is_refused: bool
) -> None:
    model = make_model(engine_dir=engine_dir)
    if is_refused:
        with pytest.raises(RepositoryError, match=r"tensorrt_llm/config.pbtxt:\d+: unresolved placeholder"):
            render_repository([model])
        return
    _, files = render_repository([model])
    assert _parameters(_parse(files, "tensorrt_llm"))["engine_dir"] == engine_dir


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(["a", "a"], "served names must differ", id="twice"),
        pytest.param(["tensorrt_llm"], "'tensorrt_llm' is the name of another model", id="the-engine-s"),
        pytest.param(["a", "b", "b-tensorrt_llm"], "'b-tensorrt_llm' is the name of another model", id="an-inner-one"),
    ],
)
def test_names_must_be_unique(make_model: Callable[..., ServedModel], names: list[str], message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        render_repository([make_model(name) for name in names])


def test_nothing_in_a_repository_imports_the_tool(make_model: Callable[..., ServedModel]) -> None:
    _, files = render_repository([make_model(layout="full")])
    sources = [data.decode() for path, data in files.items() if path.endswith(".py")]
    assert len(sources) > 10
    assert not [source for source in sources if re.search(r"^\s*(from|import) trtbuild(\.| )", source, re.MULTILINE)]
    assert not [data for data in files.values() if str(repository.TEMPLATES).encode() in data]


@pytest.mark.parametrize(
    ("case", "layouts"),
    [
        pytest.param("minimal", ["minimal"], id="minimal"),
        pytest.param("full", ["full"], id="full"),
        pytest.param("two", ["full", "minimal"], id="two"),
    ],
)
def test_golden_configurations(
    make_model: Callable[..., ServedModel], tmp_path: Path, update_golden: bool, case: str, layouts: list[str]
) -> None:
    """Whole repositories; only configurations are compared by content."""
    models = [
        make_model(f"chat{number or ''}", layout=layout, max_queue_size=8) for number, layout in enumerate(layouts)
    ]
    _, files = render_repository(models)
    got = {
        path: data.decode().replace(str(tmp_path), "/store")
        for path, data in files.items()
        if path.endswith(("config.pbtxt", ".json"))
    }
    got["files.txt"] = "".join(f"{path}\n" for path in files)
    golden = GOLDEN / case
    if update_golden:
        shutil.rmtree(golden, ignore_errors=True)
        for path, text in got.items():
            (golden / path).parent.mkdir(parents=True, exist_ok=True)
            (golden / path).write_text(text)
    wanted = {path: data.decode() for path, data in _tree(golden).items()}
    assert got == wanted, "run pytest --update-golden and look at the difference"


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        pytest.param("plain", '"plain"', id="plain"),
        pytest.param('a"b\\c', '"a\\"b\\\\c"', id="quotes"),
        pytest.param("é\n", '"\\303\\251\\012"', id="bytes"),
    ],
)
def test_quoting(value: str, quoted: str) -> None:
    assert quote_pbtxt(value) == quoted


def test_a_shared_package_is_copied_with_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "_shared" / "trtbuild_web"
    (package / "page" / "parts").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    contents = {
        "__init__.py": b"",
        "page/index.html": b"<!doctype html>\n",
        "page/parts/icon.png": b"\x89PNG\r\n\x1a\n\0\xff",
        "page/app.js": b"import trtbuild_nowhere from './x.js'\n",  # no Python, so nothing to look for
    }
    for path, data in contents.items():
        (package / path).write_bytes(data)
    (package / "__pycache__" / "x.pyc").write_bytes(b"left behind")
    monkeypatch.setattr("trtbuild.repository.render.TEMPLATES", tmp_path)
    (tmp_path / "web" / "1").mkdir(parents=True)
    (tmp_path / "web" / "config.pbtxt.j2").write_text("name: {{ name | pbtxt }}\n")
    (tmp_path / "web" / "1" / "model.py").write_text("from trtbuild_web import page\n")
    files = render_directory("web", "m", {"name": "m"})
    copied = {path.removeprefix("m/1/trtbuild_web/"): data for path, data in files.items() if "trtbuild_web" in path}
    assert copied == contents


def test_the_front_model_brings_the_whole_endpoint(make_model: Callable[..., ServedModel]) -> None:
    _, files = render_repository([make_model()])
    package = TEMPLATES_DIRECTORY / "_shared" / "trtbuild_http"
    expected = {path.relative_to(package).as_posix(): path.read_bytes() for path in files_below(package)}
    assert {"gateway.py", "framing.py"} <= expected.keys()
    prefix = "chat/1/trtbuild_http/"
    assert {path.removeprefix(prefix): data for path, data in files.items() if path.startswith(prefix)} == expected
