"""The repository writer: what is rendered, what is refused, how it is swapped."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trtbuild import repository
from trtbuild.errors import RepositoryError
from trtbuild.plan import EngineInfo, EngineTemplate
from trtbuild.repository import ServedModel, quote_pbtxt, render_repository, write_repository

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "repository"
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


def test_the_front_model_knows_its_engine(make_model: Callable[..., ServedModel]) -> None:
    _, files = render_repository([make_model(max_queue_size=7)])
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
        "echoes_prompt": "false",
        "export_metrics": "true",
    }
    assert {path for path in files if path.startswith("chat/1/trtbuild_front/")} > {
        "chat/1/trtbuild_front/service.py",
        "chat/1/trtbuild_front/text/detokenizer.py",
    }


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


def test_equal_models_give_equal_bytes_and_no_new_version(
    make_model: Callable[..., ServedModel], tmp_path: Path
) -> None:
    root = write_repository(tmp_path / "a" / "repository", [make_model(layout="full")])
    other = write_repository(tmp_path / "b" / "repository", [make_model(layout="full")])
    assert _tree(root) == _tree(other) and len(_tree(root)) > 30
    target, inode = root.readlink(), root.resolve().stat().st_ino
    (root / "chat" / "1" / "__pycache__").mkdir()  # a server may leave these behind
    (root / "chat" / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    write_repository(root, [make_model(layout="full")])
    assert (root.readlink(), root.resolve().stat().st_ino) == (target, inode)
    assert root.name == "repository" and (root / "chat" / "config.pbtxt").is_file()


def test_a_changed_version_is_written_again(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model()])
    good = _tree(root)
    (root / "chat" / "1" / "model.py").write_text("broken")
    (root / "tensorrt_llm" / "config.pbtxt").unlink()
    assert _tree(write_repository(root, [make_model()])) == good


def test_a_reader_sees_whole_repositories_only(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    models = [make_model(max_queue_size=number) for number in range(3)]
    whole = []
    for model in models:
        write_repository(root, [model])
        whole.append(_tree(root))
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for model in models:
                write_repository(root, [model])

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = 0
        while seen < 60:
            version = root.resolve()  # what a server does once, at its start
            try:
                tree = _tree(version)
            except FileNotFoundError:  # two newer versions were written meanwhile
                continue
            if version.exists() and tree:
                assert tree in whole
                seen += 1
    finally:
        stop.set()
        writer.join()
    assert not list((tmp_path / ".repository.versions").glob(".staging-*"))


def test_old_versions_go_but_the_last_one_stays(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    targets = []
    for number in range(4):
        write_repository(root, [make_model(max_queue_size=number)])
        os.utime(root.resolve(), (number, number))
        targets.append(root.resolve())
    assert [target.exists() for target in targets] == [False, False, True, True]


def test_several_models_have_unique_inner_names(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model("one", layout="full"), make_model("two")])
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "one", "ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls", "two",
        "two-tensorrt_llm",
    }  # fmt: skip
    assert 'string_value: "two-tensorrt_llm"' in (root / "two" / "config.pbtxt").read_text()


def test_others_can_be_kept_and_replaced(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_repository(root, [make_model("one", layout="full")])
    one = {path: data for path, data in _tree(root).items() if path.startswith(("one/", "tensorrt_llm/", "ensemble/"))}
    write_repository(root, [make_model("two")], keep_others=True)
    assert (root / "ensemble" / "1").is_dir()  # an empty version directory is kept too
    assert one.items() <= _tree(root).items()
    assert "two-tensorrt_llm/config.pbtxt" in _tree(root)
    write_repository(root, [make_model("two", max_queue_size=3)], keep_others=True)
    assert one.items() <= _tree(root).items()
    assert "two-two-tensorrt_llm/config.pbtxt" not in _tree(root)
    write_repository(root, [make_model("two")])
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"two", "tensorrt_llm"}


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
    ("old", "new", "message"),
    [
        pytest.param("max_batch_size: 4", "max_batch: 4", 'no field named "max_batch"', id="unknown-field"),
        pytest.param("max_batch_size: 4", "max_batch_size: ", "is not a model configuration", id="syntax"),
        pytest.param("{{ name | pbtxt }}", '"x"', "expected name 'tensorrt_llm', got 'x'", id="another-name"),
        pytest.param("engine_dir | pbtxt", "nothing | pbtxt", "'nothing' is undefined", id="missing-variable"),
        pytest.param('"seed"', '"end_id"', "tensors named twice: end_id", id="tensor-twice"),
        pytest.param(
            '"sequence_length" data_type: TYPE_INT32', '"lengths" data_type: TYPE_INT32',
            "tensorrt_llm has no output 'sequence_length'", id="ensemble-output",
        ),
        pytest.param(
            'name: "output_ids" data_type: TYPE_INT32', 'name: "output_ids" data_type: TYPE_INT64',
            "tensor '_TOKENS_BATCH' has another type", id="ensemble-type",
        ),
        pytest.param(
            '{ name: "input_ids"', '{ name: "image" data_type: TYPE_INT32 dims: [ 1 ] },\n  { name: "input_ids"',
            "tensorrt_llm needs image", id="ensemble-input",
        ),
    ],
)  # fmt: skip
def test_what_the_server_would_stumble_over_is_refused(
    make_model: Callable[..., ServedModel], tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in ENGINE
    model = make_model(config=ENGINE.replace(old, new), layout="full")
    with pytest.raises(RepositoryError, match=re.escape(message)) as caught:
        write_repository(tmp_path / "repository", [model])
    assert caught.value.hint
    assert not (tmp_path / "repository").exists()


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


@pytest.mark.parametrize(
    ("present", "message"),
    [
        pytest.param("tokenizer.model", r"tokenizer.model \(SentencePiece\) and no tokenizer.json", id="sentencepiece"),
        pytest.param("vocab.json", "holds no tokenizer.json", id="nothing"),
    ],
)
def test_a_tokenizer_the_server_cannot_read_is_refused(
    make_model: Callable[..., ServedModel], present: str, message: str
) -> None:
    model = make_model()
    (model.tokenizer_dir / "tokenizer.json").unlink()
    (model.tokenizer_dir / present).write_text("x")
    with pytest.raises(RepositoryError, match=message) as caught:
        render_repository([model])
    assert caught.value.hint


def test_foreign_directories_are_left_alone(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "notes.txt").write_text("keep")
    with pytest.raises(RepositoryError, match="was not written by trtbuild") as caught:
        write_repository(root, [make_model()])
    assert str(root / "repository") in caught.value.hint
    assert (root / "notes.txt").read_text() == "keep"
    write_repository(root / "repository", [make_model()])


def test_a_foreign_link_is_left_alone(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(RepositoryError, match="symbolic link to elsewhere"):
        write_repository(tmp_path / "link", [make_model()])


def test_an_empty_directory_may_be_replaced(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    assert write_repository(tmp_path / "repository", [make_model()]).is_symlink()


def test_a_mount_point_is_not_replaced_but_may_be_the_parent(
    make_model: Callable[..., ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self == mount)
    with pytest.raises(RepositoryError, match="is a mount point") as caught:
        write_repository(mount, [make_model()])
    assert str(mount / "repository") in caught.value.hint
    assert write_repository(mount / "repository", [make_model()]).exists()


def test_a_parent_that_is_a_file_is_named(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="cannot write the model repository"):
        write_repository(tmp_path / "file" / "repository", [make_model()])


def test_a_damaged_record_is_named(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    root = write_repository(tmp_path / "repository", [make_model("one")])
    (root / "trtbuild-repository.json").write_text("{")
    with pytest.raises(RepositoryError, match="is damaged"):
        write_repository(root, [make_model("two")], keep_others=True)
    write_repository(root, [make_model("two")])


def test_a_repository_can_be_moved_as_a_whole(make_model: Callable[..., ServedModel], tmp_path: Path) -> None:
    write_repository(tmp_path / "a" / "repository", [make_model()])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "repository" / "chat" / "config.pbtxt").is_file()


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


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        pytest.param(
            errno.EDQUOT,
            "the disk quota of uid {uid} on {there} is used up, 3.0 KiB are needed",
            "quota -s",
            id="quota",
        ),
        pytest.param(errno.ENOSPC, "the disk of {there} is full: ", "df -h {there}", id="full"),
        pytest.param(errno.EROFS, "{there} is on a read-only file system", "mount it writable", id="read-only"),
        pytest.param(
            errno.EPERM, "Operation not permitted: {there} belongs to uid ", "make {there} writable", id="not-ours"
        ),
        pytest.param(errno.ENOTDIR, "Not a directory", "another --repository", id="another"),
    ],
)
def test_why_it_cannot_be_written_and_what_to_do(tmp_path: Path, code: int, reason: str, hint: str) -> None:
    error = repository.unwritable(
        "the file x", tmp_path / "not" / "there", OSError(code, os.strerror(code)), needed_bytes=3 << 10
    )
    known = {"uid": os.geteuid(), "there": tmp_path}
    assert error.message.startswith(f"cannot write the file x: {reason.format(**known)}")
    assert hint.format(**known) in error.hint
    assert "--repository" in error.hint
