"""A writer of repositories dies at any step, meets another, or finds a full disk: nothing half written is ever used."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.actors import fork, wait
from tests.integration.store.test_store_election import namespaces
from tests.unit.repository.conftest import ENGINE, INFO
from tests.unit.store.store_helpers import REPOSITORY
from trtbuild.errors import RepositoryError
from trtbuild.plan import EngineTemplate
from trtbuild.process import Command, run
from trtbuild.repository import ServedModel, write_repository

pytestmark = pytest.mark.integration


def make_model(top: Path, engine: str) -> ServedModel:
    template, tokenizer = top / "template", top / "tokenizer"
    (template / "1").mkdir(parents=True, exist_ok=True)
    tokenizer.mkdir(exist_ok=True)
    (template / "config.pbtxt.j2").write_text(ENGINE)
    (template / "1" / "model.py").write_text("ENGINE = 1\n")
    (tokenizer / "tokenizer.json").write_text("{}")
    made = EngineTemplate(directory=str(template), variables={"engine_dir": f"/engines/{engine}"})
    return ServedModel(served_name="chat", engine_template=made, engine_info=INFO, tokenizer_dir=tokenizer)


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes().hex() for path in sorted(root.rglob("*")) if path.is_file()
    }


def left(root: Path) -> list[str]:
    """Return what is beside the versions."""
    versions = root.parent / f".{root.name}.versions"
    return sorted(path.name for path in versions.iterdir() if path.name.startswith(".") and path.name != ".lock")


def at_step(number: int, top: Path, act: Callable[[], None], seen: list[str]) -> None:
    """Act before this process changes something below ``top`` for the ``number``-th time."""
    kinds = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.utime", "shutil.rmtree", "open"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in kinds or not str(arguments[0]).startswith(str(top)):
            return
        if event == "open" and not (int(arguments[2]) & (os.O_WRONLY | os.O_RDWR)):
            return
        seen.append(f"{event} {arguments[0]}")
        if len(seen) - 1 == number:
            act()

    sys.addaudithook(hook)


def walk(directory: str) -> None:
    """Kill a writer before each of its changes in turn, and print what was found afterwards."""
    steps: list[dict[str, object]] = []
    for step in range(1000):
        top = Path(directory) / str(step)
        top.mkdir()
        root, wanted = top / "models" / "chat", make_model(top, "two")
        write_repository(root, [make_model(top, "one")])
        first = tree(root)
        (root.resolve() / "chat" / "config.pbtxt").write_text("edited by hand") if step % 2 else None

        def work(step: int = step, root: Path = root, wanted: ServedModel = wanted) -> None:
            at_step(step, root.parent, lambda: os.kill(os.getpid(), signal.SIGKILL), [])
            write_repository(root, [wanted])

        code = wait(fork(work))
        found = tree(root)
        left_by_it = left(root)
        again = make_model(top, "three")
        write_repository(root, [again])
        is_changed = found != first and found.get("tensorrt_llm/config.pbtxt", "") != first["tensorrt_llm/config.pbtxt"]
        steps.append(
            {
                "code": code,
                "is_whole": set(found) == set(first),
                "is_changed": is_changed,
                "left": left_by_it,
                "after": left(root),
                "is_right": tree(root) != found,
            }
        )
        if code == 0:
            print(json.dumps(steps))
            return
    raise AssertionError("the steps did not end")


def crowd(directory: str, locks: str) -> None:
    """Several writers at once, some of which are killed; with ``locks`` broken, every writer gets every lock."""
    top = Path(directory)
    root = top / "models" / "chat"
    models = [make_model(top, str(n)) for n in range(2)]
    wanted = []
    for model in models:
        write_repository(root, [model])
        wanted.append(tree(root))
    if locks == "broken":
        fcntl.flock = lambda *_: None

    def work(n: int) -> None:
        for _ in range(10):
            write_repository(root, [models[n]])

    def die(n: int) -> None:
        at_step(5 + 7 * n, root.parent, lambda: os.kill(os.getpid(), signal.SIGKILL), [])
        write_repository(root, [replace(models[0], max_queue_size=n + 1)])

    pids = [fork(lambda n=n: work(n)) for n in range(2)]  # type: ignore[misc]
    doomed = [fork(lambda n=n: die(n)) for n in range(4)] if locks == "sound" else []  # type: ignore[misc]
    killed = [wait(pid) for pid in doomed]
    codes = [wait(pid) for pid in pids]
    is_whole = all(set(tree(root)) == set(one) for one in wanted)
    write_repository(root, [models[0]])
    print(
        json.dumps(
            {
                "codes": codes,
                "killed": killed,
                "is_whole": is_whole,
                "is_right": tree(root) == wanted[0],
                "left": left(root),
            }
        )
    )


def stopped(directory: str) -> None:
    """One writer stands still in the middle, without locks, while another writes; then it goes on."""
    top = Path(directory)
    root = top / "models" / "chat"
    models = [make_model(top, name) for name in ("slow", "fast")]
    write_repository(root, [replace(models[0], max_queue_size=9)])
    fcntl.flock = lambda *_: None

    def work() -> None:
        at_step(8, root.parent, lambda: os.kill(os.getpid(), signal.SIGSTOP), [])
        write_repository(root, [models[0]])

    pid = fork(work)
    os.waitpid(pid, os.WUNTRACED)
    half = left(root)
    write_repository(root, [models[1]])
    fast, between = tree(root), left(root)
    os.kill(pid, signal.SIGCONT)
    code = wait(pid)
    print(
        json.dumps(
            {"half": half, "between": between, "code": code, "is_swapped": tree(root) != fast, "left": left(root)}
        )
    )


def actor(*arguments: object) -> Any:
    argv = (sys.executable, "-m", "tests.integration.test_repository_faults", *map(str, arguments))
    done = run(Command(argv=argv, cwd=REPOSITORY), timeout_s=240)
    assert done.exit_code == 0, done.tail
    return json.loads(done.tail[-1])


def test_kill_9_before_every_step_leaves_a_whole_repository_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    steps = actor("walk", tmp_path)
    assert len(steps) > 30, "too few steps: the hook is not called everywhere"
    assert {step["code"] for step in steps[:-1]} == {-signal.SIGKILL}
    assert all(step["is_whole"] and step["is_right"] for step in steps)
    assert {step["is_changed"] for step in steps} == {False, True}
    seen = {name.partition("-")[0] for step in steps for name in step["left"]}
    assert {".staging", ".link"} <= seen, "the kills hit nothing half done"
    assert [step["after"] for step in steps if step["after"]] == []


@pytest.mark.parametrize("locks", ["sound", "broken"])
def test_two_writers_at_once_are_safe(tmp_path: Path, locks: str) -> None:
    outcome = actor("crowd", tmp_path, locks)
    assert outcome["codes"] == [0, 0]
    assert outcome["is_whole"]
    assert outcome["is_right"]
    assert outcome["left"] == []
    assert outcome["killed"] == ([-signal.SIGKILL] * 4 if locks == "sound" else [])


def test_a_writer_that_stands_still_without_locks_is_not_robbed(tmp_path: Path) -> None:
    outcome = actor("stopped", tmp_path)
    assert len(outcome["half"]) == 1
    assert outcome["between"] == outcome["half"]
    assert (outcome["code"], outcome["is_swapped"], outcome["left"]) == (0, True, [])


def test_leftovers_of_another_boot_go_by_age_alone(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_repository(root, [make_model(tmp_path, "one")])
    versions, token = tmp_path / ".models.versions", "0" * 32
    names = [f".staging-{'a' * 12}-{token}", f".staging-{token}", f".link-{'b' * 12}-{token}"]
    kept = [".staging-mine", "notes", ".link-", "0123456789abcdefg"]
    for name in (*names, *kept):
        (versions / name / "sub").mkdir(parents=True) if "link" not in name else (versions / name).symlink_to("nowhere")
    write_repository(root, [make_model(tmp_path, "two")])
    assert {*names, *kept} <= {path.name for path in versions.iterdir()}
    for name in (*names, *kept):
        os.utime(versions / name, (1, 1), follow_symlinks=False)
    write_repository(root, [make_model(tmp_path, "three")])
    assert {path.name for path in versions.iterdir()} & {*names, *kept} == set(kept)


@pytest.mark.parametrize("name", [".models.versions", ".models.versions/.lock"])
def test_no_planted_link_is_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    for number in range(5):
        (precious / f"thesis-{number}").mkdir(parents=True)
    (precious / "file").write_text("not to be cut")
    link = tmp_path / "shared" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(precious / "file" if name.endswith(".lock") else precious)
    with pytest.raises(RepositoryError, match="symbolic link"):
        write_repository(tmp_path / "shared" / "models", [make_model(tmp_path, "one")])
    assert len(list(precious.iterdir())) == 6
    assert (precious / "file").read_text() == "not to be cut"


WRITE = """
import os, sys
from pathlib import Path
from tests.integration.test_repository_faults import left, make_model, tree
from trtbuild.errors import RepositoryError
from trtbuild.process import Command, run
from trtbuild.repository import write_repository
top = Path(sys.argv[1])
root = top / "disk" / "models"
def attempt(name):
    try:
        write_repository(root, [make_model(top, name)])
        print("written", left(root))
    except RepositoryError as error:
        print(error.message, "| hint:", error.hint)
"""


def in_a_disk_of_its_own(tmp_path: Path, options: str, code: str) -> list[str]:
    (tmp_path / "disk").mkdir()
    (tmp_path / "code.py").write_text(WRITE + code)
    script = f"mount -t tmpfs -o {options} none {tmp_path}/disk && exec {sys.executable} {tmp_path}/code.py {tmp_path}"
    env = {"PYTHONPATH": str(REPOSITORY)}
    done = run(Command(argv=(*namespaces(), "sh", "-c", script), cwd=REPOSITORY, env=env), timeout_s=120)
    assert done.exit_code == 0, done.tail
    return list(done.tail)


FULL = """
attempt("one")
before = tree(root)
try:
    with open(top / "disk" / "filler", "wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
except OSError:
    pass
attempt("two")
print(tree(root) == before, left(root))
(top / "disk" / "filler").unlink()
attempt("two")
"""


def test_a_full_disk_is_told_with_the_figures_and_the_old_repository_stays(tmp_path: Path) -> None:
    lines = in_a_disk_of_its_own(tmp_path, "size=2m", FULL)
    assert lines[0] == lines[3] == "written []"
    assert f"cannot write the model repository {tmp_path}/disk/models: the disk of {tmp_path}/disk" in lines[1]
    assert " is full: 0 B are free, " in lines[1]
    assert "KiB are needed | hint: make room there (df -h " in lines[1]
    assert "--repository" in lines[1]
    assert lines[2] == "True []"


def test_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    (line,) = in_a_disk_of_its_own(tmp_path, "size=2m,nr_inodes=9", 'attempt("one")')
    assert re.search(r"is full: 2.0 MiB and \d inodes are free, \d+.* KiB are needed", line)


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    remount = f'run(Command(argv=("mount", "-o", "remount,ro", "{tmp_path}/disk")))'
    lines = in_a_disk_of_its_own(tmp_path, "size=2m", f'attempt("one")\n{remount}\nattempt("two")')
    assert f"cannot write the model repository {tmp_path}/disk/models: {tmp_path}/disk" in lines[1]
    assert "is on a read-only file system | hint: mount it writable, or pass --repository with" in lines[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_of_another_user_is_told_with_both_users() -> None:
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which keeps its own to the user that runs it
        top = Path(name)
        top.chmod(0o755)
        (line,) = in_a_disk_of_its_own(top, "size=2m,mode=755", ANOTHER)
        assert "disk/models: permission denied on " in line
        assert f": {top}/disk belongs to uid 0 gid 0 mode 0755" in line
        assert "this process is uid 12345 gid 12345 | hint: set the pod's fsGroup or runAsUser" in line


ANOTHER = """
from trtbuild.repository import render_repository
model = make_model(top, "one")
render_repository([model])  # while what it imports may still be read
make_model = lambda *_: model
os.setgroups([]); os.setgid(12345); os.setuid(12345)
attempt("one")
"""


if __name__ == "__main__":
    {"walk": walk, "crowd": crowd, "stopped": stopped}[sys.argv[1]](*sys.argv[2:])
