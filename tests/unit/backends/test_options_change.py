"""Every option, said to every backend, changes what is built, written or started, or is refused, or stands below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.keys import CPU, DIRECTORY, ENGINE, LLMAPI, Request
from tests.unit.backends.tensorrt_llm.test_tensorrt_llm_template import write_engine
from trtbuild import backends
from trtbuild.errors import HostError, SpecError
from trtbuild.pipeline import served_model
from trtbuild.plan import EngineInfo
from trtbuild.registry import NAMES
from trtbuild.repository import render_repository
from trtbuild.serve import openai
from trtbuild.serve.access import Secrets
from trtbuild.serve.launch import server_command
from trtbuild.serve.ports import asked_ports
from trtbuild.serve.server import Server
from trtbuild.spec import OPTIONS, Option, Spec, parse_spec

BASES = {"cpu": CPU, "tensorrt_llm": ENGINE, "llmapi": LLMAPI}

OTHER: dict[str, Any] = {
    "model": "mistral-7b",
    "revision": "f" * 40,
    "dtype": "float16",
    "quantization": "int8-weight-only",
    "kv_cache_dtype": "int8",
    "tp_size": 2,
    "pp_size": 2,
    "max_batch_size": 4,
    "max_input_len": 100,
    "max_seq_len": 2048,
    "max_num_tokens": 512,
    "kv_cache_tokens": 8192,
    "calibration": DIRECTORY,
    "served_name": "another",
    "repository": "/srv/models",
    "layout": "full",
    "max_queue_size": 7,
    "kv_cache_free_gpu_mem_fraction": 0.5,
    "batch_scheduler_policy": "max_utilization",
    "host": "0.0.0.0",
    "http_port": 9000,
    "grpc_port": 9001,
    "metrics_port": 9002,
    "log_verbose": 1,
    "drain_timeout": 60,
    "open_api": ["trace"],
    "server_arg": {"log-info": "false"},
    "openai_port": 9003,
    "openai_host": "127.0.0.2",
    "api_key_file": "/srv/keys.txt",
    "openai_allowed_origin": ["https://chat.example"],
    "openai_max_body": "1MiB",
}
"""Another value of every option that is no switch; the two below have one by backend."""
OTHER_PAIRS = {
    "build_option": {
        "cpu": {"compute_type": "bfloat16"}, "tensorrt_llm": {"max_beam_width": "4"}, "llmapi": {"a": "1"},
    },
    "template_parameter": {
        "cpu": {"inference_num_threads": "3"},
        "tensorrt_llm": {"max_attention_window_size": "2048"},
        "llmapi": {"cancellation_check_period_ms": "50"},
    },
}  # fmt: skip

OF_THE_STORE = "where engines are kept and how they are checked, whatever built them"
CHANGES_NOTHING = {
    **{option.name: OF_THE_STORE for option in OPTIONS if option.section == "store"},
    "backend": "names the backend itself",
    "allow_pickle": "permits a download; what was downloaded has a commit, and that is in the key",
    "trust_remote_code": "permits to run the model's code; llmapi passes it on and has it in the key",
    "repository": "where the repository is written, not what it holds",
    "add_to_repository": "whether other models stay beside this one, not how this one is served",
}
"""Options that need change nothing, and why."""


SAID = [option for option in OPTIONS if option.section != "store" and option.name != "backend"]


@dataclass(frozen=True)
class Outcome:
    """What a request leads to: an engine, a repository, a server."""

    key: str
    files: dict[str, bytes]
    command: tuple[object, ...]


def outcome(base: Request, spec: Spec, directory: Path) -> Outcome:
    backend = backends.get(base.backend)
    pinned = replace(base, model=spec.engine.model, revision=spec.engine.revision).pinned()
    plan = backends.make_plan(backend, spec, pinned, base.host)
    info = EngineInfo(
        backend=base.backend, tp_size=1, pp_size=1, max_batch_size=4, max_input_len=64, max_seq_len=128,
        max_num_tokens=128, dtype="float32", vocab_size=100,
    )  # fmt: skip
    if base.backend == "tensorrt_llm":
        info = backend.inspect(write_engine(directory, "1.2.1"))
    (directory / "tokenizer").mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    _, files = render_repository([served_model(spec, backend, info, directory)])
    ports = asked_ports(spec.server)
    server = Server(path=Path("/opt/tritonserver"), kind="native", env={})
    settings = openai.environment(spec.server, ports, Path("/run/endpoint"))
    secrets = Secrets(api="a", engine="e")
    command = server_command(server, Path("/r"), spec.server, ports, secrets=secrets, openai=settings)
    return Outcome(plan.key.digest, files, (command.argv, command.env))


def request(base: Request, **said: object) -> Spec:
    return parse_spec({"model": base.model, "revision": base.revision, "backend": base.backend, **said})


def another(option: Option, backend: str) -> object:
    if option.kind == "bool":
        return not option.default
    if option.name in OTHER_PAIRS:
        return OTHER_PAIRS[option.name][backend]
    return OTHER[option.name]


@pytest.mark.parametrize("option", SAID, ids=[option.name for option in SAID])
@pytest.mark.parametrize("name", NAMES)
def test_an_option_changes_something_or_is_refused(name: str, option: Option, tmp_path: Path) -> None:
    base = BASES[name]
    before = outcome(base, request(base), tmp_path / "engine")
    try:
        after = outcome(base, request(base, **{option.name: another(option, name)}), tmp_path / "engine")
    except (SpecError, HostError) as error:
        said = error.message.replace("-", "_")
        assert option.name in said or option.name in {"model", "quantization"}, f"refused for {error.message}"
        assert error.hint
        return
    assert after != before or option.name in CHANGES_NOTHING, f"{option.name} is taken by {name} and does nothing"


def test_the_list_of_options_without_an_effect_is_short_and_of_options() -> None:
    named = {option.name for option in OPTIONS}
    assert set(CHANGES_NOTHING) <= named
    assert len([name for name, why in CHANGES_NOTHING.items() if why is not OF_THE_STORE]) == 5


@pytest.mark.parametrize(
    ("name", "said", "readers"),
    [
        ("cpu", {"kv_cache_free_gpu_mem_fraction": 0.9}, "tensorrt_llm and llmapi"),
        ("cpu", {"orchestrator": True}, "tensorrt_llm"),
        ("llmapi", {"orchestrator": True}, "tensorrt_llm"),
        ("llmapi", {"kv_cache_tokens": 4096}, "cpu"),
    ],
)
def test_what_a_refusal_says_helps(name: str, said: dict[str, object], readers: str, tmp_path: Path) -> None:
    base, (option, value) = BASES[name], *said.items()
    with pytest.raises(SpecError) as caught:
        outcome(base, request(base, **said), tmp_path / "engine")
    assert caught.value.message == f"{option}={value}: the {name} backend does not read it"
    assert caught.value.hint == f"leave --{option.replace('_', '-')} out; it is for --backend {readers}"
    outcome(base, request(base), tmp_path / "engine")
    for other in readers.split(" and "):
        outcome(BASES[other], request(BASES[other], **said), tmp_path / other)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_refuses_the_template_parameter_that_the_repository_would(name: str) -> None:
    base = BASES[name]
    spec = request(base, template_parameter={"nothing_knows_this": "1"})
    with pytest.raises(SpecError, match="nothing_knows_this"):
        backends.make_plan(backends.get(name), spec, base.pinned(), base.host)
