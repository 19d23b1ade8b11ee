"""Write docs/reference.md from the program itself, or with ``--check`` compare it.

The page is made of what ``--help`` says, the options table and the exit codes, so that it cannot say anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trtbuild.cli.app import COMMANDS, app
from trtbuild.cli.config import RESERVED
from trtbuild.console.log import format_bytes
from trtbuild.errors import EXIT_CODE_MEANINGS
from trtbuild.spec import OPTIONS, Option

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
SECTIONS = {
    "model": "The model",
    "engine": "The engine",
    "repository": "The model repository",
    "store": "The store",
    "server": "The server",
}
RESERVED_MEANINGS = {
    "TRTBUILD_CONFIG": "path of an engine.yaml, when `--config` is not given",
    "TRTBUILD_ENGINE_SECRET": "what the front model shows the engine model; `serve` makes one for every start unless "
    "it is set ([security.md](security.md))",
    "TRTBUILD_GRPC_ENDPOINT": "`HOST:PORT` of the server's own gRPC endpoint, for the front model",
    "TRTBUILD_IMAGE": "name and digest of the container image, recorded in the manifests of engines built in it",
    "TRTBUILD_LOG_FORMAT": "`auto`, `human`, `text` or `json`, when `--log-format` is not given",
    "TRTBUILD_LOG_LEVEL": "`debug`, `info`, `warning` or `error`, when `--log-level` is not given",
    "TRTBUILD_OPENAI": "set by `serve` for front models: the settings of the OpenAI port, as JSON; empty: none",
    "TRTBUILD_PYTHON": "set by `serve` for model processes: the interpreter that has the engine's packages",
    "TRTBUILD_TRTLLM_EXAMPLES": "directory of TensorRT-LLM's own `examples`, of the installed version, where it is not "
    "`/app/examples`",
}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return every command with its words, groups before their children."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def own_parameters(command: click.Command) -> list[click.Option]:
    """Return the options of a command that are not in the options table."""
    table = {option.name: f"[env: {option.env}]" for option in OPTIONS}
    return [
        p
        for p in command.params
        if isinstance(p, click.Option) and not (p.name in table and table[p.name] in (p.help or ""))
    ]


def render() -> str:
    """Return the page."""
    lines = ["# Reference", "", "Made from the program by `make docs`; a test compares the two.", "", "## Commands", ""]
    for words, command in commands(app):
        context = click.Context(command, info_name=" ".join(("trtbuild", *words)), max_content_width=110)
        usage = command.get_usage(context).replace("Usage: ", "")
        lines += [f"### `trtbuild {' '.join(words)}`", "", "```", " ".join(usage.split()), "```", ""]
        lines += [_help_text(command), ""]
        own = own_parameters(command)
        if own:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| {_flags(option)} | {_cell(option.help or '')} |" for option in own]
            lines.append("")
        lines += _shared_options(command)
    lines += [
        "## Options",
        "",
        "A flag wins over the environment, which wins over engine.yaml, which wins over the default.",
        "",
    ]
    for section, title in SECTIONS.items():
        lines += [
            f"### {title}",
            "",
            "| engine.yaml | flag | environment | default | meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [_option_row(option) for option in OPTIONS if option.section == section]
        lines.append("")
    lines += ["## Other variables", "", "| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {RESERVED_MEANINGS[name]} |" for name in RESERVED]
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODE_MEANINGS.items()]
    return "\n".join(lines) + "\n"


def _shared_options(command: click.Command) -> list[str]:
    """Return the sentence that names the options of the table that matter to a command."""
    names = {p.name for p in command.params if not getattr(p, "hidden", False)}
    table = {o.name: o for o in OPTIONS if o.name != "model"}
    if not {p.name for p in command.params} >= set(table):
        return []  # takes no engine.yaml
    whole = [section for section in SECTIONS if all(o.name in names for o in table.values() if o.section == section)]
    single = [f"`{o.flag}`" for o in table.values() if o.name in names and o.section not in whole]
    parts = [f"every option of: {', '.join(SECTIONS[section] for section in whole)}"] if whole else []
    parts += [", ".join(single)] if single else []
    return [f"Also {'; and '.join(parts)}.", ""]


def _help_text(command: click.Command) -> str:
    text = (command.help or "").replace("\b\n", "")
    return "\n".join(line.strip() for line in text.splitlines()).strip()


def _flags(option: click.Option) -> str:
    return ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _option_row(option: Option) -> str:
    if option.name == "model":
        flag = "`MODEL`"
    elif option.kind == "bool":
        flag = f"`{option.flag}`, `--no-{option.flag[2:]}`"
    else:
        flag = ", ".join(f"`{name}`" for name in (option.flag, *option.flags))
    default = (
        ""
        if option.default is None
        else f"`{str(option.default).lower() if option.kind == 'bool' else option.default}`"
    )
    if option.kind == "bytes" and isinstance(option.default, int):
        default = f"`{format_bytes(option.default).replace(' ', '')}`"
    how_many = "Any" if option.kind == "choices" else "One"
    choices = f" {how_many} of {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
    return f"| `{option.name}` | {flag} | `{option.env}` | {default} | {_cell(option.help)}{choices} |"


if __name__ == "__main__":
    assert set(COMMANDS) == {words[0] for words, _ in commands(app)}
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != render():
            sys.exit("docs/reference.md is not what the program says; run: make docs")
    else:
        PAGE.write_text(render(), encoding="utf-8")
