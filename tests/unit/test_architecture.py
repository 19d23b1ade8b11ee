"""The shape of the source: layers, no cycles, one user of subprocess, one reader of the environment, sizes."""

from __future__ import annotations

import ast
import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.fakes.source import AREAS, ROOT, SOURCES, SourceFile, import_graph

LAYERS = {
    room: number
    for number, layer in enumerate(tomllib.loads((ROOT / "tools" / "architecture.toml").read_text())["layer"])
    for room in layer["rooms"]
}
"""The layer of every room of the builder, from the file that the documentation's pictures are drawn from."""

MAX_FUNCTION_LINES = 60
MAX_ROOMS = 7
SEES_THE_PROCESS = {"console/frame.py", "console/streams.py", "console/render.py"}
"""Files outside of ``cli/`` that look at the process they run in, for both command lines."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Most that an area may have now: lines of its files, files of more than 300, modules in a chain of imports.

    Where we want to be: median 130, p95 300, max 400. These figures are lowered when the source gets there, never
    raised.
    """

    median: float
    p95: int
    largest: int
    over_300: int
    chain: int


SIZES = {
    "builder": Sizes(median=115, p95=300, largest=400, over_300=6, chain=17),
    "clients": Sizes(median=140, p95=260, largest=300, over_300=0, chain=6),
    "templates": Sizes(median=120, p95=375, largest=390, over_300=4, chain=8),
    "tools": Sizes(median=160, p95=220, largest=220, over_300=0, chain=2),
    "benchmarks": Sizes(median=130, p95=300, largest=400, over_300=1, chain=7),
}
LARGEST_IN = {"store": 250, "fetch": 300}
"""Lines of the largest file of rooms that are as they should be."""

LONG_FUNCTIONS: dict[str, int] = {}
"""Functions that are longer than they should be, and by now at most so long."""

BUILDER = tuple(file for file in SOURCES if file.area == "builder")
by_file = pytest.mark.parametrize("file", BUILDER, ids=[file.short for file in BUILDER])
by_area = pytest.mark.parametrize("area", AREAS)


def _room(name: str) -> str:
    """Return the part of the package that a module is in: ``store`` for ``trtbuild.store.manifest``."""
    return name.split(".")[1] if "." in name else ""


def _rooms(file: SourceFile) -> set[str]:
    """Return the parts of trtbuild that a file imports at run time."""
    return {_room(name) for name in file.imported() if name.startswith("trtbuild.")} & set(LAYERS)


def test_every_file_has_a_layer() -> None:
    assert {_room(file.module) for file in BUILDER} - {"", "__main__"} == set(LAYERS)


@by_file
def test_a_file_imports_lower_layers_only(file: SourceFile) -> None:
    own = _room(file.module)
    wrong = {
        name
        for name in _rooms(file)
        if name != own
        and LAYERS[name] >= LAYERS.get(own, 99)
        and not (LAYERS[name] == LAYERS[own] <= 2)  # pure layers may lean on each other; cycles are refused below
    }
    assert not wrong, f"{own} (layer {LAYERS[own]}) imports {wrong}"


def _longest_chain(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """Return the longest chain of imports, or fail with a cycle."""
    chains: dict[str, list[str]] = {}

    def chain(name: str, above: tuple[str, ...] = ()) -> list[str]:
        assert name not in above, f"import cycle: {' > '.join((*above[above.index(name) :], name))}"
        if name not in chains:
            below = [chain(each, (*above, name)) for each in sorted(graph[name])]
            chains[name] = [name, *max(below, key=len, default=[])]
        return chains[name]

    return max((chain(name) for name in graph), key=len)


@by_area
def test_modules_do_not_import_in_cycles_and_chains_are_bounded(area: str) -> None:
    graph = import_graph(tuple(file for file in SOURCES if file.area == area))
    assert len(graph) > 3
    assert area in {"tools"} or any(graph.values()), "no import was found"
    longest = _longest_chain(graph)
    assert len(longest) <= SIZES[area].chain, " > ".join(longest)


@pytest.mark.parametrize("area", ["builder", "clients"])
def test_a_way_through_the_rooms_is_short(area: str) -> None:
    rooms: dict[str, set[str]] = {}
    for module, needs in import_graph(tuple(file for file in SOURCES if file.area == area)).items():
        rooms.setdefault(_room(module), set()).update({_room(name) for name in needs} - {_room(module)})
    longest = _longest_chain({room: frozenset(needs) for room, needs in rooms.items()})
    assert 3 < len(longest) <= MAX_ROOMS, " > ".join(longest)


@by_file
def test_only_one_file_starts_programs(file: SourceFile) -> None:
    names = {name.split(".")[0] for name in file.imported()}
    assert file.short == "process.py" or not names & {"subprocess", "pty", "pexpect"}


@by_file
def test_below_the_command_line_nothing_reads_the_environment_or_exits(file: SourceFile) -> None:
    if file.short.startswith("cli/") or file.short in SEES_THE_PROCESS:
        return
    used = {
        f"{node.value.id}.{node.attr}"
        for node in file.nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    } & {"os.environ", "os.getenv", "sys.argv", "sys.exit"}
    assert file.short == "process.py" or not used
    broad = [
        handler.lineno
        for handler in file.nodes
        if isinstance(handler, ast.ExceptHandler) and handler.type and ast.unparse(handler.type) == "Exception"
    ]
    assert not broad, f"except Exception at lines {broad}"


@by_area
def test_functions_are_short(area: str) -> None:
    long = {
        f"{file.short}:{node.name}": node.end_lineno - node.lineno + 1
        for file in SOURCES
        if file.area == area
        for node in file.functions
        if node.end_lineno and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not {name: lines for name, lines in long.items() if lines > LONG_FUNCTIONS.get(name, 0)}


@by_area
def test_files_are_of_a_size_to_read(area: str) -> None:
    lines = {file.short: file.lines for file in SOURCES if file.area == area and file.lines > 5}
    ordered, most = sorted(lines.values()), SIZES[area]
    assert statistics.median(ordered) <= most.median
    assert ordered[int(len(ordered) * 0.95)] <= most.p95
    over = {name: count for name, count in lines.items() if count > 300}
    assert len(over) <= most.over_300, f"over 300 lines: {over}"
    assert ordered[-1] <= most.largest, f"split the largest of {over}"


@pytest.mark.parametrize("room", LARGEST_IN)
def test_files_of_a_tidy_room_stay_small(room: str) -> None:
    lines = {file.short: file.lines for file in BUILDER if _room(file.module) == room}
    assert len(lines) > 10
    assert not {name: count for name, count in lines.items() if count > LARGEST_IN[room]}


def test_the_walk_found_the_source() -> None:
    found = {file.short for file in BUILDER}
    assert {"errors.py", "spec/table.py", "plan/values.py", "process.py"} <= found
    assert {area: sum(file.area == area for file in SOURCES) >= 5 for area in AREAS} == dict.fromkeys(AREAS, True)
