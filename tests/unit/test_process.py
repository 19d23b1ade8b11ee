"""Children are followed, logged, and never outlive a cancelled run."""

from __future__ import annotations

import os
import signal
import sys
import time
import venv
from pathlib import Path

import pytest

import trtbuild
from trtbuild.process import Command, run, start, stop


def _python(code: str) -> Command:
    return Command(argv=(sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("package", "is_base"),
    [
        pytest.param("of_the_base", True, id="seen-from-the-environment"),
        pytest.param("of_the_environment", False, id="in-the-environment"),
        pytest.param("nowhere", False, id="nowhere"),
    ],
)
def test_what_belongs_to_the_base_runs_without_the_environment_s_packages(
    package: str, is_base: bool, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", system_site_packages=True, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    [site_packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    for directory, name in ((tmp_path / "outside", "of_the_base"), (site_packages, "of_the_environment")):
        (directory / name).mkdir(parents=True)
        (directory / name / "__init__.py").touch()
    code = f"from trtbuild.process import interpreter_with; print(interpreter_with({package!r}))"
    seen = os.pathsep.join([str(Path(trtbuild.__file__).parents[1]), str(tmp_path / "outside")])
    told = run(Command(argv=(str(python), "-c", code), env={"PYTHONPATH": seen})).tail
    assert len(told) == 1
    where = Command(argv=(told[0], "-c", "import sys; print(sys.prefix)"))
    assert Path(run(where).tail[0]) == (Path(sys.base_prefix) if is_base else tmp_path / "venv")


def test_output_is_followed_kept_and_logged(tmp_path: Path) -> None:
    seen: list[str] = []
    log_path = tmp_path / "log"
    done = run(
        _python("import sys; print('out'); print('err', file=sys.stderr)"), log_path=log_path, on_line=seen.append
    )
    assert done.exit_code == 0
    assert set(seen) == {"out", "err"} == set(done.tail) == set(log_path.read_text().split())


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        pytest.param("raise SystemExit(7)", 7, id="plain"),
        pytest.param("import os; os.kill(os.getpid(), 9)", 137, id="killed"),
        pytest.param("import os; os.kill(os.getpid(), 15)", 143, id="terminated"),
    ],
)
def test_exit_codes_are_the_shells(code: str, exit_code: int) -> None:
    assert run(_python(code)).exit_code == exit_code


def test_environment_is_added_and_argv_is_not_parsed_by_a_shell() -> None:
    command = Command(
        argv=(sys.executable, "-c", "import os, sys; print(os.environ['X'], sys.argv[1])", "$(id); *"), env={"X": "1"}
    )
    assert run(command).tail == ("1 $(id); *",)


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Also those that the child has started: a compiler's ranks."""
    pid_file = tmp_path / "grandchild"
    child = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pid_file)!r} + ".new", "w").write(str(child.pid))
import os; os.rename({str(pid_file)!r} + ".new", {str(pid_file)!r})
time.sleep(600)
"""
    parent = f"""
import sys
from trtbuild.process import Command, run
run(Command(argv=(sys.executable, "-c", {child!r})))
"""
    running = start(_python(parent), log_path=tmp_path / "log")
    try:
        for _ in range(600):
            if pid_file.exists():
                break
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGKILL)
        _assert_gone(int(pid_file.read_text()))
    finally:
        stop(running)


def test_nothing_is_left_of_a_run_that_ended() -> None:
    descriptors, children = Path("/proc/self/fd"), Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(descriptors.iterdir()), children.read_text()
    assert run(_python("print(1)")).tail == ("1",)
    assert (set(descriptors.iterdir()), children.read_text()) == before


def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "grandchild"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pid_file)!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    with pytest.raises(TimeoutError, match="did not end within"):
        run(_python(code), timeout_s=2)
    _assert_gone(int(pid_file.read_text()))


def test_an_exception_while_following_ends_the_child(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(_python("import os, time; print(os.getpid(), flush=True); time.sleep(600)"), on_line=fail)
    _assert_gone(pids[0])


def test_start_and_stop(tmp_path: Path) -> None:
    child = start(_python("import time; print('up', flush=True); time.sleep(600)"), log_path=tmp_path / "log")
    assert stop(child) == 143
    assert stop(child) == 143


def test_a_missing_program_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        run(Command(argv=("/nonexistent/program",)))


def test_shell_text_can_be_pasted() -> None:
    assert Command(argv=("a", "b c", "$d")).shell() == "a 'b c' '$d'"


def _assert_gone(pid: int) -> None:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")
