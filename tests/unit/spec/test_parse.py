"""Options: one table, three spellings, errors with the closest match."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.errors import SpecError
from trtbuild.spec import OPTIONS, OPTIONS_BY_NAME, parse_bytes, parse_spec, parse_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("1k", 1024),
        ("1KB", 1000),
        ("20GiB", 20 * 2**30),
        ("1.5 G", int(1.5 * 2**30)),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_parsed(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XB", "1e3", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("tp_size", "4", 4, id="int-text"),
        pytest.param("tp_size", 4, 4, id="int-yaml"),
        pytest.param("allow_pickle", "yes", True, id="bool-text"),
        pytest.param("allow_pickle", False, False, id="bool-yaml"),
        pytest.param("dtype", "bfloat16", "bfloat16", id="choice"),
        pytest.param("build_option", ("b=2", "a=1"), {"a": "1", "b": "2"}, id="pairs-flags"),
        pytest.param("build_option", "b=2,a=1", {"a": "1", "b": "2"}, id="pairs-env"),
        pytest.param("build_option", {"a": True}, {"a": "true"}, id="pairs-yaml"),
        pytest.param("kv_cache_free_gpu_mem_fraction", "0.9", 0.9, id="float"),
    ],
)
def test_values_become_the_options_type(name: str, value: object, expected: object) -> None:
    assert parse_value(OPTIONS_BY_NAME[name], value) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"model": "m", "tp_size": "0"}, "at least 1, got 0", id="too-small"),
        pytest.param({"model": "m", "tp_size": 10**20}, "at most 1024, got 1000", id="too-many-ranks"),
        pytest.param({"model": "m", "http_port": 99999}, "at most 65535, got 99999", id="no-port"),
        pytest.param({"model": "m", "tp_size": "two"}, "whole number, got 'two'", id="no-number"),
        pytest.param({"model": "m", "tp_size": True}, "expected a number, got True", id="bool-as-number"),
        pytest.param({"model": "m", "tp_size": [1]}, r"expected one value, got \[1\]", id="list-as-number"),
        pytest.param({"model": "m", "dtype": "bfloat"}, "did you mean 'bfloat16'", id="choice-typo"),
        pytest.param({"model": "m", "max_batchsize": 4}, "did you mean 'max_batch_size'", id="unknown-name"),
        pytest.param({"model": "m", "build_option": ("x",)}, "expected NAME=VALUE", id="pair-without-value"),
        pytest.param({"model": ""}, "expected a value", id="empty"),
        pytest.param({}, "no model was named", id="no-model"),
        pytest.param({"model": "m", "served_name": "../x"}, "served_name: expected letters", id="hostile-name"),
        pytest.param({"model": "m", "kv_cache_free_gpu_mem_fraction": "nan"}, "at least 0, got nan", id="nan"),
    ],
)
def test_what_is_wrong_is_said_with_the_expected_value(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(values)
    assert caught.value.hint


def test_an_error_names_where_the_value_came_from() -> None:
    with pytest.raises(SpecError, match=r"^engine\.yaml line 3: expected"):
        parse_spec({"model": "m", "tp_size": "x"}, origins={"tp_size": "engine.yaml line 3"})


def test_every_option_reaches_its_frozen_value() -> None:
    samples: dict[str, object] = {
        "str": "text",
        "int": 64,
        "float": 0.5,
        "bool": True,
        "path": "/x",
        "bytes": 4096,
        "pairs": {"a": "b"},
    }
    samples["choices"] = samples["words"] = ["trace"]
    values = {o.name: (o.choices[-1] if o.kind == "choice" else samples[o.kind]) for o in OPTIONS}
    spec = parse_spec(values)
    for option in OPTIONS:
        section = {"model": spec.engine, "engine": spec.engine}.get(option.section) or getattr(spec, option.section)
        assert getattr(section, option.name) == parse_value(option, values[option.name]), option.name


def test_defaults_of_the_table_and_of_the_values_agree() -> None:
    spec = parse_spec({"model": "m"})
    for option in OPTIONS:
        if option.name == "model":
            continue
        section = {"model": spec.engine, "engine": spec.engine}.get(option.section) or getattr(spec, option.section)
        expected = {"pairs": {}, "choices": (), "words": ()}.get(option.kind, option.default)
        assert getattr(section, option.name) == expected, option.name


def test_bfloat16_is_not_dropped() -> None:
    """The system before this one compared dtype with "bfloat" and lost bfloat16 silently."""
    assert parse_spec({"model": "m", "dtype": "bfloat16"}).engine.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [*((word, True) for word in ("1", "true", "Yes", "on")), *((word, False) for word in ("0", "false", "No", "off"))],
)
def test_a_switch_takes_the_usual_words(text: str, expected: bool) -> None:
    assert parse_spec({"model": "m", "allow_pickle": text}).engine.allow_pickle is expected


@pytest.mark.parametrize("text", ["maybe", "2", "", "truee"])
def test_a_switch_takes_no_other_word(text: str) -> None:
    with pytest.raises(SpecError, match="allow_pickle"):
        parse_spec({"model": "m", "allow_pickle": text})


def test_a_home_directory_in_a_path_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_spec({"model": "m", "store": "~/x"}).store.store == tmp_path / "x"
