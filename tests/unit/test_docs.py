"""The documentation says what the program says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from trtbuild.errors import EXIT_CODE_MEANINGS
from trtbuild.spec import OPTIONS


def test_the_reference_is_made_from_the_program(project_root: Path) -> None:
    path = project_root / "tools" / "reference.py"
    found = importlib.util.spec_from_file_location("reference", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    page = (project_root / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == module.render(), "run: make docs"
    assert all(option.env in page for option in OPTIONS)
    assert all(f"| {code} | {text} |" in page for code, text in EXIT_CODE_MEANINGS.items())


PAGES = sorted(p for p in Path(__file__).resolve().parents[2].glob("*.md")) + sorted(
    (Path(__file__).resolve().parents[2] / "docs").glob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_links_between_pages_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"[a-z]+:", link)]
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_commands_in_the_documentation_exist(page: Path) -> None:
    """Every ``trtbuild ...`` line of a console block uses flags that some command has."""
    from trtbuild.cli.app import COMMANDS

    flags = {f for o in OPTIONS for f in (o.flag, *o.flags)} | {
        f"--no-{o.flag[2:]}" for o in OPTIONS if o.kind == "bool"
    }
    reference = (page.parents[1] if page.parent.name == "docs" else page.parent) / "docs" / "reference.md"
    flags |= set(re.findall(r"`(--[a-z-]+)`", reference.read_text(encoding="utf-8"))) | {"--help", "--version"}
    for line in re.findall(r"^\$ (trtbuild [^#\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = line.split()
        assert words[1] in COMMANDS or not words[1].startswith("-"), line
        unknown = [w.split("=")[0] for w in words if w.startswith("--") and w.split("=")[0] not in flags]
        assert not unknown, f"{line}: {unknown}"
