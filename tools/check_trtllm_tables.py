#!/usr/bin/env python3
"""Compare the catalog's TensorRT-LLM tables with upstream's own source, or with what an image prints.

With a source tree of a release, or with a tag in a git directory (no import, no GPU; the files are parsed):

    tools/check_trtllm_tables.py --version 1.2.1 --source ~/TensorRT-LLM
    tools/check_trtllm_tables.py --version 1.2.1 --git ~/TensorRT-LLM --tag v1.2.1

Inside an image of that release:

    trtllm-build --help > help.txt; tools/check_trtllm_tables.py --version 1.2.1 --help-text help.txt

Each difference is a line; the exit code is 1 when there is one. Options of the table that are newer than the source, or
the other way round, are how `since` and `until` in catalog/trtllm.yaml are found out.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.check_llmapi_tables import check_llm_api
from tools.upstream_source import extract
from trtbuild import catalog
from trtbuild.catalog import TrtLlmRelease

READ = (
    *("tensorrt_llm/commands/build.py", "tensorrt_llm/plugin/plugin.py", "examples/*convert_checkpoint.py"),
    *("examples/quantization/*.py", "tensorrt_llm/_torch/models/*.py", "tensorrt_llm/_torch/model_config.py"),
    *("tensorrt_llm/_torch/pyexecutor/*.py", "tensorrt_llm/llmapi/*.py"),
)
"""What is read of a tag."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One ``add_argument`` call: every spelling, its literal choices, its literal default."""

    names: tuple[str, ...]
    choices: tuple[str, ...] | None
    default: object


def read_arguments(path: Path) -> list[Argument]:
    """Return the ``add_argument`` calls of a file, in order."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "add_argument":
            continue
        names = tuple(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        found.append(
            Argument(
                names=tuple(name for name in names if name.startswith("--")),
                choices=_literal_strings(keywords.get("choices")),
                default=_literal(keywords.get("default")),
            )
        )
    return [argument for argument in found if argument.names]


def _literal(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _literal_strings(node: ast.expr | None) -> tuple[str, ...] | None:
    if not isinstance(node, ast.List | ast.Tuple):
        return None
    values = [element.value for element in node.elts if isinstance(element, ast.Constant)]
    return tuple(str(value) for value in values if value is not None)


def read_plugin_options(path: Path) -> tuple[str, ...]:
    """Return the plugin options that trtllm-build shows: the list ``cli_plugin_args`` of plugin.py."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "cli_plugin_args" for t in node.targets):
            return _literal_strings(node.value) or ()
    return ()


def check_build_source(release: TrtLlmRelease, source: Path) -> Iterator[str]:
    """Yield differences between the table of ``trtllm-build`` and its source."""
    arguments = read_arguments(source / "tensorrt_llm" / "commands" / "build.py")
    plugins = read_plugin_options(source / "tensorrt_llm" / "plugin" / "plugin.py")
    real = {name.removeprefix("--") for argument in arguments for name in argument.names} | set(plugins)
    yield from _compare_names("trtllm-build", {f"--{name}" for name in release.build_options}, {f"--{n}" for n in real})
    for argument in arguments:
        option = release.build_options.get(argument.names[0].removeprefix("--"))
        if option is None:
            continue
        if argument.choices and option.choices and set(argument.choices) != set(option.choices):
            yield f"trtllm-build --{option.name}: choices {sorted(option.choices)}, source {sorted(argument.choices)}"
        is_said = isinstance(argument.default, int | str) and not isinstance(argument.default, bool)
        if is_said and option.default != str(argument.default):
            yield f"trtllm-build --{option.name}: default {option.default}, source {argument.default}"


def check_scripts(release: TrtLlmRelease, source: Path) -> Iterator[str]:
    """Yield differences between the tables of the conversion scripts and their source."""
    for family in release.families:
        path = next((source / "examples" / s for s in family.scripts if (source / "examples" / s).is_file()), None)
        if path is None:
            yield f"{family.name}: none of {', '.join(family.scripts)} is in the source"
            continue
        yield from _compare_script(path, family.flags.values(), family.options, family.dtypes, family.flags["dtype"])
    tool, path = release.quantize, source / "examples" / release.quantize.script
    if path.is_file():
        yield from _compare_script(path, tool.flags.values(), tool.options, tool.dtypes, tool.flags["dtype"])
    else:
        yield f"quantize: {tool.script} is not in the source"


def _compare_script(
    path: Path, flags: Iterable[str], options: tuple[str, ...], dtypes: tuple[str, ...], dtype_flag: str
) -> Iterator[str]:
    arguments = read_arguments(path)
    real = {name for argument in arguments for name in argument.names}
    wanted = {*flags, *options}
    where = f"{path.parent.name}/{path.name}"
    # Scripts have options that trtbuild has no use for; only those the table names must be there.
    for name in sorted(wanted - real):
        yield f"{where}: {name} is in the table, not in the source"
    for argument in arguments:
        if dtype_flag in argument.names and argument.choices and set(argument.choices) != set(dtypes):
            yield f"{where}: {dtype_flag}: choices {sorted(dtypes)}, source {sorted(argument.choices)}"


def check_help(release: TrtLlmRelease, text: str) -> Iterator[str]:
    """Yield differences between the table of ``trtllm-build`` and what its ``--help`` prints."""
    real = set(re.findall(r"(?m)^\s{1,4}(?:-\w, )?(--[a-z]\w*)", text))
    real |= {
        name for line in re.findall(r"(?m)^\s{1,4}--.*$", text) for name in re.findall(r"(?:^|, )\s*(--\w+)", line)
    }
    hidden = {"--kv_cache_type", "--paged_kv_cache"}  # argparse.SUPPRESS upstream
    table = {f"--{name}" for name in release.build_options}
    yield from _compare_names("trtllm-build --help", table - hidden, real - hidden - {"--help"})


def _compare_names(where: str, table: set[str], real: set[str]) -> Iterator[str]:
    for name in sorted(table - real):
        yield f"{where}: {name} is in the table, not in the source"
    for name in sorted(real - table):
        yield f"{where}: {name} is in the source, not in the table"


def check_source(release: TrtLlmRelease, source: Path) -> Iterator[str]:
    """Yield every difference between the tables and a source tree."""
    yield from check_build_source(release, source)
    yield from check_scripts(release, source)
    yield from check_llm_api(release.version, source)


def main(argv: list[str]) -> int:
    """Print differences; return 1 when there are some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True, help="TensorRT-LLM release, e.g. 1.2.1")
    parser.add_argument("--source", type=Path, help="source tree of that release")
    parser.add_argument("--git", type=Path, help="git directory that has the release; --tag names it there")
    parser.add_argument("--tag", default="")
    parser.add_argument("--help-text", type=Path, help="output of trtllm-build --help")
    args = parser.parse_args(argv)
    if not (args.source or args.git or args.help_text):
        parser.error("nothing to compare with: pass --source, --git or --help-text")
    if bool(args.git) != bool(args.tag):
        parser.error("--git and --tag go together: the git directory, and the release's tag in it")
    release = catalog.trtllm(args.version)
    found: list[str] = []
    if args.source:
        found += check_source(release, args.source)
    if args.git:
        with tempfile.TemporaryDirectory() as scratch:
            extract(args.git, args.tag, READ, Path(scratch))
            found += check_source(release, Path(scratch))
    if args.help_text:
        found += check_help(release, args.help_text.read_text(encoding="utf-8"))
    for line in found:
        print(line)
    print(f"TensorRT-LLM {release.version}: {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
