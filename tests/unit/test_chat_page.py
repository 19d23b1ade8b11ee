"""The chat page's modules that need no browser, run by Node.js with the cases of ``chat_page.test.mjs``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "model_repo_templates" / "_shared" / "trtbuild_http" / "page"
CASES = Path(__file__).with_name("chat_page.test.mjs")
MAX_PAGE_BYTES = 112 * 1024


def test_the_modules_do_what_their_cases_say(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed (package nodejs)")
    # Node takes a .js file for a module only where a package.json says so.
    modules = tmp_path / "page"
    shutil.copytree(PAGE, modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(CASES, tmp_path)
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", str(tmp_path / CASES.name)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) == CASES.read_text().count("\ntest(")


def test_the_page_is_small() -> None:
    sizes = {file.name: file.stat().st_size for file in PAGE.iterdir()}
    assert sum(sizes.values()) <= MAX_PAGE_BYTES, sizes


@pytest.mark.parametrize("file", sorted(PAGE.glob("*.*")), ids=lambda file: file.name)
def test_the_page_needs_nothing_that_its_policy_forbids(file: Path) -> None:
    text = file.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
    )
    if file.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", text)
    foreign = re.findall(r"https?://[\w.-]+", text)
    assert set(foreign) <= {"http://www.w3.org", "https://html.spec.whatwg.org"}  # a namespace, a source
