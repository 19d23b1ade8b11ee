"""``trtclient load``: put a load on a model and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtbuild import redact
from trtbuild.errors import SpecError
from trtclient.cli.options import (
    DURATION,
    GOAL,
    LENGTHS,
    configure_log,
    output_options,
    refuse_unwritable,
    server_options,
    write_text,
)
from trtclient.errors import EXIT_UNMET
from trtclient.values import Goal, Lengths

if TYPE_CHECKING:
    from trtclient.load.run import Closed
    from trtclient.load.schedule import Arrival
    from trtclient.load.stats import Summary
    from trtclient.load.workload import Workload

_FILE = click.Path(dir_okay=False, path_type=Path)
_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("url")
@click.argument("model")
@click.option("--rate", metavar="RATE", help="Open loop, requests/s: 5, 2..20 (ramp) or 2@30s,2..20@1m,20@2m.")
@click.option(
    "--arrival",
    type=click.Choice(["poisson", "constant", "bursty"]),
    default="poisson",
    show_default=True,
    help="Pattern of an open loop.",
)
@click.option(
    "--burstiness",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Of --arrival bursty: deviation of the gaps over their mean; 1 is poisson.",
)
@click.option("--trace", type=_INPUT, help="Replay the arrivals (and lengths) of a trace: .jsonl or .csv.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Replay a trace this much faster.",
)
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Closed loop: this many users, one request after another."
)
@click.option("--duration", type=DURATION, metavar="TIME", help="How long requests are due. Default with --rate: 30s.")
@click.option("--requests", "limit", type=click.IntRange(min=1), help="At most this many requests.")
@click.option("--warmup", type=DURATION, default="0s", metavar="TIME", help="Leave out what was due in the first TIME.")
@click.option("--prompts", type=_INPUT, help="Prompts, in turn: a line each, or .jsonl with text or messages.")
@click.option(
    "--prompt-tokens",
    type=LENGTHS,
    default="64",
    show_default=True,
    metavar="TOKENS",
    help="Length of made-up prompts: 128, 64..256, normal:128,32 or lognormal:128,0.6.",
)
@click.option(
    "--max-tokens",
    type=LENGTHS,
    default="64",
    show_default=True,
    metavar="TOKENS",
    help="Length of answers, in the same forms.",
)
@click.option("--force-length", is_flag=True, help="Answers must not end earlier: min_tokens is sent too.")
@click.option("--no-stream", is_flag=True, help="Ask for whole answers; the first token is then the last.")
@click.option(
    "--slo", "goal", type=GOAL, metavar="GOAL", help="What counts as good, e.g. ttft=500ms,tpot=50ms,e2e=10s."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 10 if fewer than this share of the requests met --slo (or were answered).",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="For one request, from its due time.",
)
@click.option(
    "--max-in-flight", type=click.IntRange(min=1), help="Most requests open at once; waiting here counts too."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same schedule and prompts.")
@click.option("--json", "json_path", type=_FILE, help="Write the report as JSON.")
@click.option("--csv", "csv_path", type=_FILE, help="Write one line per request.")
@click.option("--html", "html_path", type=_FILE, help="Write the report as one page with plots.")
@server_options
@output_options
def load(
    url: str, model: str, api: str | None, token: str, ca_file: str | None, log_format: str, output: str,
    goal: Goal | None, warmup: float, timeout: float, max_in_flight: int | None, fail_under: float | None,
    json_path: Path | None, csv_path: Path | None, html_path: Path | None, **options: Any,
) -> int:  # fmt: skip
    """Send requests to MODEL at URL by a schedule and report how it went.

    Say one of --rate (open loop), --trace (open loop, replayed) or --concurrency (closed loop). In an open loop nothing
    waits for an answer, and every latency counts from the time the request was due, not from when it could be sent.
    """
    configure_log(log_format)
    from trtclient import apis
    from trtclient.load import report, run, stats

    refuse_unwritable(json_path, csv_path, html_path)
    plan = _plan(**{name: options[name] for name in _PLAN_OPTIONS})
    state, workload = run.execute(
        run.Run(
            connect=lambda: apis.connect(url, model, name=api or "", token=token, ca_file=ca_file),
            plan=plan,
            workload=_workload(options),
            timeout_s=timeout,
            max_in_flight=max_in_flight,
        )
    )
    summary = stats.summarize(state, goal=goal or Goal(), warmup_s=warmup)
    settings = _settings({"url": url, "model": model, "warmup_s": warmup, "timeout_s": timeout, **options})
    settings["tokens_per_word"] = None if workload.prompts else round(workload.tokens_per_word, 3)
    text = report.as_json(summary, settings)
    click.echo(text if output == "json" else report.as_table(summary))
    if json_path:
        write_text(json_path, text + "\n")
    if csv_path:
        write_text(csv_path, report.as_csv(state.records))
    if html_path:
        from trtclient.load import page

        write_text(html_path, page.render(summary, state.records, settings))
    return _exit_code(summary, fail_under)


_PLAN_OPTIONS = ("rate", "arrival", "burstiness", "trace", "speed", "concurrency", "duration", "limit", "seed")


def _plan(
    *, rate: str | None, arrival: Any, burstiness: float, trace: Path | None, speed: float, concurrency: int | None,
    duration: float | None, limit: int | None, seed: int,
) -> Sequence[Arrival] | Closed:  # fmt: skip
    """Return the schedule that the options describe."""
    from trtclient.load.run import Closed
    from trtclient.load.schedule import open_loop, read_trace
    from trtclient.values import parse_rate

    if sum(option is not None for option in (rate, trace, concurrency)) != 1:
        raise SpecError(
            "expected one of --rate, --trace and --concurrency",
            hint="--rate 5 for an open loop (what users do), --concurrency 8 for a closed one (what a batch does)",
        )
    if concurrency is not None:
        if duration is None and limit is None:
            raise SpecError("a closed loop needs an end", hint="--requests 200 or --duration 1m")
        return Closed(concurrency=concurrency, limit=limit, duration_s=duration)
    if trace is not None:
        arrivals = read_trace(trace, speed=speed, limit=limit)
        return [one for one in arrivals if duration is None or one.due_s < duration]
    assert rate is not None
    return open_loop(parse_rate(rate, duration or 30.0), arrival, seed, burstiness=burstiness, limit=limit)


def _workload(options: dict[str, Any]) -> Workload:
    from trtclient.load.workload import Workload, read_prompts

    prompt_tokens, max_tokens = options["prompt_tokens"], options["max_tokens"]
    assert isinstance(prompt_tokens, Lengths)
    assert isinstance(max_tokens, Lengths)
    return Workload(
        prompts=read_prompts(options["prompts"]) if options["prompts"] else (),
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        is_length_forced=options["force_length"],
        parameters=dict(options["parameters"]),
        seed=options["seed"],
        stream=not options["no_stream"],
    )


def _settings(options: dict[str, Any]) -> dict[str, object]:
    """Return the options as JSON can hold them, for reports that are passed on: without logins and tokens."""

    def plain(value: Any) -> object:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        return str(value) if isinstance(value, Path) else value

    found = {name: plain(value) for name, value in options.items() if value not in (None, ())}
    return dict(redact.value(found))


def _exit_code(summary: Summary, fail_under: float | None) -> int:
    if summary.is_interrupted:
        return 130
    if fail_under is not None:
        return EXIT_UNMET if summary.good < fail_under * summary.requests else 0
    return EXIT_UNMET if summary.ok < summary.requests else 0
