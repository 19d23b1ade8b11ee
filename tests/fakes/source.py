"""The source of this project, parsed once: files, their imports and their functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AREAS = {
    "builder": ROOT / "builder" / "trtbuild",
    "clients": ROOT / "clients" / "trtclient",
    "templates": ROOT / "model_repo_templates",
    "tools": ROOT / "tools",
    "benchmarks": ROOT / "benchmarks",
}
"""Everything that is written in Python and is no test; packages are imported by the last part of their path."""

COPIES = {"_templates", "_demo_model"}
"""Directories that an installed package has in itself; what they hold is looked at where it is written."""


@dataclass(frozen=True)
class SourceFile:
    """One file of Python."""

    path: Path
    area: str

    @property
    def short(self) -> str:
        return str(self.path.relative_to(AREAS[self.area]))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def module(self) -> str:
        """The name it is imported by."""
        root = AREAS[self.area]
        base = root.parent
        if self.area == "templates":  # shared packages, or files beside each other in a model's version directory
            base = root / "_shared" if "_shared" in self.path.parts else self.path.parent
        parts = self.path.relative_to(base).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        return name if base != self.path.parent else f"{self.path.parent.relative_to(root)}:{name}"

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @cached_property
    def _typing_only(self) -> frozenset[int]:
        return frozenset(
            id(node)
            for branch in self.nodes
            if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
            for node in ast.walk(branch)
        )

    def imported(self, *, top_level: bool = False) -> Iterator[str]:
        """Yield every dotted name that is imported at run time, ``from a import b`` as ``a.b``.

        ``top_level`` leaves out what functions import when they are called.
        """
        inside = {id(n) for f in self.functions for n in ast.walk(f)} if top_level else set()
        for node in self.nodes:
            if id(node) in self._typing_only or id(node) in inside:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{self._absolute(node)}.{alias.name}" for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module.split(".") if self.path.name == "__init__.py" else self.module.split(".")[:-1]
        return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])

    @cached_property
    def functions(self) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
        return tuple(node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


SOURCES = tuple(
    SourceFile(path, area)
    for area, root in AREAS.items()
    for path in sorted(root.rglob("*.py"))
    if not COPIES & set(path.parts) and not path.is_symlink()
)


def import_graph(files: tuple[SourceFile, ...]) -> Mapping[str, frozenset[str]]:
    """Return the modules that each module imports when it is loaded, among ``files``."""
    modules = {file.module for file in files}
    graph = {}
    for file in files:
        beside = file.module.rpartition(":")[0]
        found = set()
        for name in file.imported(top_level=True):
            candidates = (name, name.rpartition(".")[0])
            if beside:
                candidates += tuple(f"{beside}:{part}" for part in candidates)
            found |= set(candidates[:1]) & modules or set(candidates) & modules
        graph[file.module] = frozenset(found - {file.module})
    return graph
