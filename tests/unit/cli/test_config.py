"""Flag > environment > engine.yaml > default, and every typo is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.cli.config import default_hf_cache, default_store, load_spec, read_engine_yaml
from trtbuild.errors import SpecError


@pytest.fixture
def engine_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "engine.yaml"
    path.write_text("model: llama-3-8b\ntp_size: 2\ndtype: float16\nbuild_option: {gemm_plugin: auto}\n")
    return path


def test_precedence(engine_yaml: Path) -> None:
    environ = {"TRTBUILD_TP_SIZE": "4", "TRTBUILD_DTYPE": "bfloat16", "PATH": "/bin"}
    spec = load_spec({"dtype": "float32", "pp_size": None, "build_option": ()}, engine_yaml, environ)
    assert (spec.engine.model, spec.engine.tp_size, spec.engine.dtype) == ("llama-3-8b", 4, "float32")
    assert spec.engine.build_option == {"gemm_plugin": "auto"}


def test_the_file_can_come_from_the_environment(engine_yaml: Path) -> None:
    assert load_spec({}, None, {"TRTBUILD_CONFIG": str(engine_yaml)}).engine.tp_size == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("model: m\ntp-size: 2\n", r"line 2: unknown option 'tp-size'; did you mean 'tp_size'", id="dash"),
        pytest.param("model: m\nmodel: n\n", "line 2: 'model' is given twice", id="twice"),
        pytest.param("- a\n", "expected a mapping of options, got a sequence", id="list"),
        pytest.param("? [a]\n: b\n", "line 1: expected the name of an option, got a sequence", id="list-as-name"),
        pytest.param("model: &a [*a]\n", "is not YAML", id="endless"),
        pytest.param("model: m\n---\nmodel: n\n", "is not YAML", id="two-documents"),
        pytest.param("model: [a\n", r"line 2 column 1 is not YAML: .*expected ',' or ']'", id="broken"),
        pytest.param("model: \x07\n", r"engine.yaml is not YAML: .*not allowed", id="control-character"),
        pytest.param("model: !!python/object:os.system x\n", "is not YAML", id="unsafe-tag"),
        pytest.param("model: m\ntp_size: two\n", "line 2: expected a whole number", id="value"),
        pytest.param("model: m\ndtype: {a: 1}\n", "line 2: expected one value", id="mapping-value"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        load_spec({}, path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nope.yaml: No such file"):
        load_spec({}, tmp_path / "nope.yaml", {})


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("# nothing\n")
    assert read_engine_yaml(path) == {}


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(SpecError, match="unknown environment variable TRTBUILD_TP; did you mean"):
        load_spec({"model": "m"}, None, {"TRTBUILD_TP": "2"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRTBUILD_SERVICE_HOST", "10.0.0.1"),
        ("TRTBUILD_SERVICE_PORT_HTTP", "8000"),
        ("TRTBUILD_PORT", "tcp://10.0.0.1:8000"),
        ("TRTBUILD_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("TRTBUILD_HTTP_PORT", "tcp://10.0.0.1:8000"),
    ],
)
def test_kubernetes_service_links_are_no_options(name: str, value: str) -> None:
    assert load_spec({"model": "m"}, None, {name: value}).server.http_port == 8000


def test_an_empty_variable_is_not_set() -> None:
    assert load_spec({"model": "m"}, None, {"TRTBUILD_TP_SIZE": ""}).engine.tp_size == 1


def test_default_directories() -> None:
    assert default_store({"XDG_CACHE_HOME": "/x"}) == Path("/x/trtbuild")
    assert default_hf_cache({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == Path("/c")
    assert default_hf_cache({"HF_HOME": "/h"}) == Path("/h/hub")
