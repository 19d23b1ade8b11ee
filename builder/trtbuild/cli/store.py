"""``trtbuild store``: look at the engine store and clean it. Deletion plans, shows, then acts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtbuild.cli.config import default_hf_cache, default_store
from trtbuild.cli.options import configure_log, echo_json, output_options
from trtbuild.cli.views.store import (
    collection_document,
    entry_document,
    entry_rows,
    provenance_document,
    removal_rows,
)
from trtbuild.console.log import format_bytes
from trtbuild.console.tables import echo_table
from trtbuild.errors import StoreError

if TYPE_CHECKING:
    from trtbuild.store import Entry, Store

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def store() -> None:
    """Look at the engine store and clean it."""


def store_command(function: F) -> F:
    """Add ``--store`` and the output options."""
    root = click.option(
        "--store", "root", type=click.Path(path_type=Path), envvar="TRTBUILD_STORE", help="Root of the engine store."
    )
    return root(output_options(function))


def open_store(root: Path | None) -> Store:
    """Return the store at ``root``, or the default one."""
    from trtbuild.store import Store

    return Store(root or default_store(os.environ))


def find_entries(opened: Store, keys: tuple[str, ...]) -> list[Entry]:
    """Return the entries that ``keys`` name.

    Raises:
        StoreError: One names nothing, or several entries.
    """
    chosen: list[Entry] = []
    for text in keys:
        found = opened.find(text)
        if len(found) != 1:
            what = "no entry" if not found else f"{len(found)} entries"
            raise StoreError(f"{text!r} names {what} of {opened.root}", hint="trtbuild store ls shows every key")
        chosen += found
    return chosen


@store.command()
@store_command
def ls(root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """List the engines: key, model, SKU, shape, size, last use."""
    configure_log(log_format, log_level)
    opened = open_store(root)
    entries = opened.ls()
    if output == "json":
        echo_json([entry_document(entry) for entry in entries])
        return
    echo_table(entry_rows(entries, now=time.time()))
    if not entries:
        click.echo(f"no engines in {opened.root}{'' if opened.root.is_dir() else ', which is no directory'}", err=True)
    for broken in opened.broken():
        click.echo(f"not usable: {broken.path}: {broken.reason}", err=True)


@store.command()
@click.argument("keys", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@store_command
def rm(
    keys: tuple[str, ...], yes: bool, dry_run: bool, root: Path | None, output: str, log_format: str, log_level: str
) -> None:
    """Remove the engines named by KEYS (beginnings of keys, or paths)."""
    configure_log(log_format, log_level)
    opened = open_store(root)
    chosen = find_entries(opened, keys)
    for entry in chosen:
        click.echo(f"{entry.short}  {format_bytes(entry.size_bytes):>10}  {entry.path}", err=True)
    if dry_run:
        return
    if not yes:
        click.confirm(f"remove {len(chosen)} engines?", abort=True, err=True)
    freed = opened.remove(chosen)
    if output == "json":
        echo_json({"removed": [entry.digest for entry in chosen], "freed_bytes": freed})
    else:
        click.echo(f"freed {format_bytes(freed)}")


@store.command()
@click.argument("keys", nargs=-1)
@click.option("--mode", type=click.Choice(["full", "sizes"]), default="full", help="full: hash every file.")
@store_command
def verify(keys: tuple[str, ...], mode: str, root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Check the engines named by KEYS, or all, against their manifests; exit 7 if one is wrong."""
    configure_log(log_format, log_level)
    opened = open_store(root)
    chosen = find_entries(opened, keys) if keys else list(opened.ls())
    problems = {e.digest: [str(p) for p in opened.verify(e, "full" if mode == "full" else "sizes")] for e in chosen}
    broken = (
        [] if keys else [f"{b.path}: {b.reason}" for b in opened.broken() if b.path not in {e.path for e in chosen}]
    )
    if output == "json":
        echo_json({"entries": problems, "broken": broken})
    else:
        for entry in chosen:
            click.echo(f"{entry.short}  {'; '.join(problems[entry.digest]) or 'ok'}")
        for line in broken:
            click.echo(f"not usable: {line}")
    wrong = sum(1 for found in problems.values() if found) + len(broken)
    if wrong:
        raise StoreError(
            f"{wrong} of {len(chosen) + len(broken)} entries are wrong", hint="trtbuild store rm KEY, then build again"
        )


@store.command()
@click.argument("key")
@store_command
def inspect(key: str, root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Show where the engine KEY came from: every key field, versions, times, and the hash of every file."""
    configure_log(log_format, log_level)
    (entry,) = find_entries(open_store(root), (key,))
    echo_json(provenance_document(entry))


@store.command()
@click.argument("keys", nargs=-1, required=True)
@store_command
def pin(keys: tuple[str, ...], root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Keep the engines named by KEYS whatever the budget says."""
    configure_log(log_format, log_level)
    opened = open_store(root)
    for entry in find_entries(opened, keys):
        opened.pin(entry)
        click.echo(entry.short)


@store.command()
@click.argument("keys", nargs=-1, required=True)
@store_command
def unpin(keys: tuple[str, ...], root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Let the engines named by KEYS be collected again."""
    configure_log(log_format, log_level)
    opened = open_store(root)
    for entry in find_entries(opened, keys):
        opened.unpin(entry)
        click.echo(entry.short)


@store.command()
@click.option("--max-bytes", envvar="TRTBUILD_MAX_BYTES", metavar="BYTES", help="Most bytes the store may hold.")
@click.option(
    "--min-free", envvar="TRTBUILD_MIN_FREE", metavar="BYTES", default="0", help="Bytes to keep free on its disk."
)
@click.option(
    "--hf-cache", type=click.Path(path_type=Path), envvar="TRTBUILD_HF_CACHE", help="Hugging Face cache to count."
)
@click.option("--dry-run", is_flag=True, help="Only show what would go and what that frees.")
@store_command
def gc(
    max_bytes: str | None,
    min_free: str,
    hf_cache: Path | None,
    dry_run: bool,
    root: Path | None,
    output: str,
    log_format: str,
    log_level: str,
) -> None:
    """Remove what is broken or left behind, then the least recently used, until the budgets hold.

    Never an engine in use, pinned, or being built.
    """
    configure_log(log_format, log_level)
    from trtbuild.store import collect

    opened = open_store(root)
    done = collect(
        opened,
        max_bytes=_bytes("--max-bytes", max_bytes) if max_bytes else None,
        min_free=_bytes("--min-free", min_free),
        hf_cache=hf_cache or default_hf_cache(os.environ),
        dry_run=dry_run,
    )
    if output == "json":
        echo_json(collection_document(done) | {"dry_run": dry_run})
        return
    if done.removals:
        echo_table(removal_rows(done.removals))
    click.echo("\n".join(done.arithmetic()))


@store.command()
@click.argument("key")
@click.option(
    "-o", "--output-file", type=click.Path(path_type=Path), required=True, help="The bundle to write, a .tar."
)
@store_command
def export(key: str, output_file: Path, root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Write the engine KEY to one file: engine, tokenizer, manifest with provenance and hashes."""
    configure_log(log_format, log_level)
    from trtbuild.store import export_bundle

    opened = open_store(root)
    (entry,) = find_entries(opened, (key,))
    size = export_bundle(opened, entry, output_file)
    if output == "json":
        echo_json({"key": entry.digest, "bundle": str(output_file), "size_bytes": size})
    else:
        click.echo(str(output_file))


@store.command(name="import")
@click.argument("bundle", type=click.Path(path_type=Path))
@store_command
def import_(bundle: Path, root: Path | None, output: str, log_format: str, log_level: str) -> None:
    """Publish the engine in BUNDLE, after checking every hash; whatever is not exactly a bundle is refused."""
    configure_log(log_format, log_level)
    from trtbuild.store import import_bundle

    entry = import_bundle(open_store(root), bundle)
    if output == "json":
        echo_json(entry_document(entry))
    else:
        click.echo(str(entry.path))


def _bytes(flag: str, text: str) -> int:
    from trtbuild.spec import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.UsageError(f"{flag}: {error}") from None
