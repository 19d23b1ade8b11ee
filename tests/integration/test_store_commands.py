"""Every ``trtbuild store`` command on a real engine, and its way to another machine and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import EXAMPLE, Machine

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HubStub() as stub:
        yield Machine(tmp_path, stub)


def test_an_engine_travels_and_every_command_agrees_on_it(machine: Machine) -> None:
    """One story, because each engine costs a build."""
    request = [str(EXAMPLE), "--backend", "cpu", "--min-free", "0"]
    built = machine.json(*request)
    key, short, path = built["key"], built["key"][:12], Path(built["engine"])

    heading, row = machine.run("store", "ls").stdout.splitlines()
    assert heading.split()[:4] == ["KEY", "MODEL", "SKU", "SHAPE"]
    assert row.startswith(f"{short}  local/pydoc-llama  {built['sku']}")
    (listed,) = json.loads(machine.run("store", "ls", "--format", "json").stdout)
    assert (listed["key"], listed["path"], listed["pinned"]) == (key, str(path), False)
    inspected = machine.json("store", "inspect", short)
    assert inspected["key_fields"]
    kept = Path(inspected["path"], "tokenizer/tokenizer.json")  # written whole, so not byte for byte the model's
    assert inspected["files"]["tokenizer/tokenizer.json"]["size"] == kept.stat().st_size
    assert json.loads(kept.read_text())["model"] == json.loads((EXAMPLE / "tokenizer.json").read_text())["model"]

    bundle = machine.directory / "engine.tar"
    assert machine.run("store", "export", short, "-o", str(bundle)).stdout == f"{bundle}\n"
    there = ["--store", str(machine.directory / "there")]
    imported = machine.json("store", "import", str(bundle), *there)
    assert imported["key"] == key
    assert machine.run("store", "verify", *there).stdout == f"{short}  ok\n"
    assert machine.json(*request, *there)["hit"] is True, "an imported engine is a hit"
    cut = machine.directory / "cut.tar"
    cut.write_bytes(bundle.read_bytes()[:-20000])
    refused = machine.run("store", "import", str(cut), "--store", str(machine.directory / "elsewhere"), code=7)
    assert "hint: " in refused.stderr
    assert machine.run("store", "ls", "--store", str(machine.directory / "elsewhere")).stdout.count("\n") == 1

    assert machine.run("store", "pin", short).stdout == f"{short}\n"
    assert "pinned" in machine.run("store", "ls").stdout
    kept = machine.run("store", "gc", "--max-bytes", "1", "--dry-run").stdout.splitlines()[-1]
    assert kept.startswith(f"kept: {path.name}")
    assert kept.endswith("pinned")
    assert machine.run("store", "unpin", short).stdout == f"{short}\n"
    assert "pinned" not in machine.run("store", "ls").stdout
    kept = machine.run("store", "gc", "--max-bytes", "1").stdout.splitlines()[-1]
    assert ", used " in kept, "what was used a moment ago stays"
    assert path.is_dir()

    victim = path / "tokenizer" / "tokenizer.json"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + b" ")
    assert "ok" in machine.run("store", "verify", "--mode", "sizes").stdout
    wrong = machine.run("store", "verify", code=7)
    assert "tokenizer/tokenizer.json" in wrong.stdout
    assert "1 of 1 entries are wrong" in wrong.stderr
    assert machine.json(*request, "--verify", "full")["hit"] is False, "a spoiled engine is built anew"
    assert victim.read_bytes() == whole
    assert machine.run("store", "verify").stdout == f"{short}  ok\n"

    assert machine.run("store", "rm", "nothing", "--yes", code=7).stdout == ""
    machine.run("store", "rm", short, "--dry-run")
    assert path.is_dir()
    assert machine.run("store", "rm", short, code=130).stderr.strip().endswith("interrupted"), "no answer is no"
    assert path.is_dir()
    assert machine.run("store", "rm", short, "--yes").stdout.startswith("freed ")
    assert not path.exists()
    assert machine.json("explain", *request)["hit"] is False
