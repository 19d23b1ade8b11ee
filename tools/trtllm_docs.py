#!/usr/bin/env python3
"""Regenerate the tables of docs/tensorrt-llm.md from the catalog; ``--check`` only compares."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from trtbuild import catalog
from trtbuild.catalog.loading import load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tensorrt-llm.md"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, tuple("---" for _ in lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def versions() -> str:
    """Return the supported releases, newest last, and below them the refused ones."""

    def tags(release: catalog.TrtLlmRelease) -> str:
        return ", ".join(tag + (" †" if catalog.open_advisories(tag) else "") for tag in release.triton)

    rows = [
        (f"`{r.version}`", tags(r), r.tensorrt, r.cuda, r.python, "yes" if r.has_llmapi else "no")
        for r in catalog.trtllm_releases()
    ]
    refused = [f"{entry['version']} ({', '.join(entry['triton'])})" for entry in load("trtllm")["refused"]]
    head = ("TensorRT-LLM", "Triton images", "TensorRT", "CUDA", "Python", "upstream's llmapi template")
    holes = (
        f"†: the image's server has known vulnerabilities ([images.md](images.md)); the first image without them is "
        f"`{catalog.first_safe_image()}`. Engines must be rebuilt for its TensorRT-LLM version."
    )
    return f"{_table(head, rows)}\n\n{holes}\n\nKnown and refused: {', '.join(refused)}."


def presets() -> str:
    """Return what each preset is, what it needs, and where it runs."""
    releases, architectures = catalog.trtllm_releases(), load("skus")["architectures"]
    rows = []
    for preset in catalog.presets():
        where = [name for name, entry in architectures.items() if preset.name in ("none", *entry["quantizations"])]
        if preset.is_calibrated:
            known = releases[-1].quantize.presets
            can = [name for name, made in known.items() if preset.name in made]
        else:
            can = ["every architecture below"]
        rows.append(
            (
                f"`{preset.name}`",
                str(preset.bits),
                "`quantize.py`, calibration data" if preset.is_calibrated else "`convert_checkpoint.py`",
                ", ".join(where),
                _code(can) if preset.is_calibrated else can[0],
            )
        )
    return _table(("preset", "bits of a weight", "made by, from", "GPUs", "models"), rows)


def architectures() -> str:
    """Return what GPUs of each architecture compute."""
    rows = [
        (
            name,
            ", ".join(entry["compute_capabilities"]),
            ", ".join(entry["dtypes"]),
            ", ".join(("auto", *entry["kv_cache_dtypes"])),
            f"up to {entry['trtllm_until']}" if "trtllm_until" in entry else entry.get("trtllm_since", "all"),
            ", ".join(sku.product for sku in catalog.skus() if sku.architecture.name == name),
        )
        for name, entry in load("skus")["architectures"].items()
    ]
    return _table(("GPUs", "capability", "types", "key/value cache", "releases", "products in the catalog"), rows)


def families() -> str:
    """Return how each family is converted."""
    since = {
        n: v for item in load("trtllm")["families"].values() for n, v in item.get("architectures_since", {}).items()
    }
    rows = [
        (
            family.name,
            ", ".join(f"`{a}`" + (f" (from {since[a]})" if a in since else "") for a in family.architectures),
            f"`{family.scripts[0]}`",
            f"`{family.flags['tp']}`",
            f"`{family.flags['pp']}`" if "pp" in family.flags and not family.pp_sizes else "no pipeline stages",
        )
        for family in catalog.trtllm_releases()[-1].families
    ]
    return _table(("family", "architectures", "script, 0.20 and later", "tensor parallel", "pipeline parallel"), rows)


def llm_api() -> str:
    """Return what the LLM API loads, by the version it came with."""
    since: dict[str, list[str]] = {}
    for name, item in load("llmapi")["architectures"].items():
        version = str(item["since"])
        first = (
            catalog.LLMAPI_SINCE
            if catalog.parse_version(version) < catalog.parse_version(catalog.LLMAPI_SINCE)
            else version
        )
        since.setdefault(first, []).append(name)
    ordered = sorted(since.items(), key=lambda pair: catalog.parse_version(pair[0]))
    table = _table(("from", "architectures"), ((f"`{version}`", _code(sorted(names))) for version, names in ordered))
    noted = [name for name, item in load("llmapi")["architectures"].items() if item["source"].startswith("notes ")]
    text = (
        f"The classes {_code(sorted(noted))} are known from upstream's release notes only, which name model families "
        "and not classes. The other rows rest on upstream's published tables of models, on the pull requests that the "
        "release page of a tag lists, or on its code."
    )
    return f"{table}\n\n{textwrap.fill(text, 112, break_on_hyphens=False)}"


def errors() -> str:
    """Return what is said instead of the tools' words."""
    rows = []
    for complaint in catalog.complaints():
        says = complaint.says.replace("{needs}", ", needs about N GiB")
        says = re.sub(r"\{(\w+)\}", r"*\1*", says)
        code = f" (exit code {', '.join(map(str, complaint.exit_codes))})" if complaint.exit_codes else ""
        rows.append((f"{says}{code}", complaint.hint))
    return _table(("what is said", "what to do"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "versions": versions,
    "presets": presets,
    "gpus": architectures,
    "families": families,
    "llm api": llm_api,
    "errors": errors,
}


def render(page: str) -> str:
    """Return the page with every table as the catalog has it now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            sys.exit(f"{PAGE.name}: no place for the table {name}: expected {begin.strip()} and {end.strip()}")
        page = f"{before}{begin}{table()}\n{end}{after}"
    return page


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if render(text) != text:
            sys.exit(f"{PAGE.name} is not what the catalog says; run: python tools/trtllm_docs.py")
    else:
        PAGE.write_text(render(text), encoding="utf-8")
