"""``trtclient batch``: a file of requests through a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trtbuild.errors import SpecError
from trtclient.batch.scoring import SCORES
from trtclient.cli.options import DURATION, SHARD, configure_log, output_options, server_options
from trtclient.errors import EXIT_UNMET

_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("source", metavar="INPUT.jsonl", type=_INPUT)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The result; beside it, while it is not complete, OUT.jsonl.journal.",
)
@click.option(
    "--url", required=True, envvar="TRTCLIENT_URL", show_envvar=True, help="The server, as for chat and load."
)
@click.option("--model", required=True, envvar="TRTCLIENT_MODEL", show_envvar=True, help="The served model's name.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=32, show_default=True, help="Most requests open at once."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Most tokens per answer, where a line does not say.",
)
@click.option("--system", default="", help="System message; plain prompts are then asked as questions.")
@click.option("--score", type=click.Choice(tuple(SCORES)), help="Compare answers with each line's reference.")
@click.option("--timeout", type=DURATION, default="10m", show_default=True, metavar="TIME", help="For one attempt.")
@click.option(
    "--retry-for",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long to repeat one request while the server is overloaded or away.",
)
@click.option(
    "--stop-after",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="End when N requests in a row could not connect, each for --retry-for; 0: try every line.",
)
@click.option(
    "--shard",
    type=SHARD,
    default="0/1",
    metavar="INDEX/COUNT",
    help="Take every COUNT-th request only, from INDEX on: one of several jobs.",
)
@server_options
@output_options
def batch(
    source: Path, out: Path, url: str, model: str, concurrency: int, max_tokens: int, system: str, score: str | None,
    timeout: float, retry_for: float, stop_after: int, shard: tuple[int, int], api: str | None,
    parameters: tuple[tuple[str, Any], ...], token: str, ca_file: str | None, output: str, log_format: str,
) -> int:  # fmt: skip
    """Send every line of INPUT.jsonl to a model and write the answers, in the same order.

    A line is {"id": ..., "text": ...} or {"id": ..., "messages": [...]}, optionally with max_tokens, parameters and a
    reference; or a line of an OpenAI batch file. Run the same command again after a crash or a kill: what was answered
    stays, the rest is done, what failed is tried again.
    """
    configure_log(log_format)
    from trtbuild.console import log
    from trtclient import apis
    from trtclient.batch.items import Defaults, Input
    from trtclient.batch.journal import Journal
    from trtclient.batch.run import Settings, execute

    if out.exists() and out.samefile(source):
        raise SpecError(f"{source} is input and output", hint="choose another -o OUT.jsonl; the answers replace it")
    defaults = Defaults(model=model, max_tokens=max_tokens, system=system, parameters=dict(parameters))
    requests = Input(source, defaults, shard=shard)
    journal = Journal(out)
    try:
        if journal.had_torn_end:
            log.get().warning("journal", f"{journal.path} ended in half a record, which is done again")
        tally = execute(
            lambda: apis.connect(url, model, name=api or "", token=token, ca_file=ca_file),
            requests,
            journal,
            Settings(
                concurrency=concurrency,
                timeout_s=timeout,
                retry_for_s=retry_for,
                stop_after=stop_after,
                score=score or "",
            ),
        )
    finally:
        journal.close()
        requests.close()
    click.echo(json.dumps(tally.as_dict(), indent=2) if output == "json" else tally.as_text())
    if tally.is_interrupted:
        log.get().info("interrupted", f"run the same command again to finish; finished answers are in {journal.path}")
        return 130
    return EXIT_UNMET if tally.failures else 0
