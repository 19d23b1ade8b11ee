"""A run as JSON, CSV and a table for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from trtclient.load.record import Record
from trtclient.load.stats import Spread, Summary

SCHEMA = 1
_COLUMNS = (
    "index", "due_s", "sent_s", "first_s", "end_s", "ttft_s", "tpot_s", "e2e_s", "max_gap_s", "pieces",
    "prompt_tokens", "completion_tokens", "finish_reason", "failure", "message",
)  # fmt: skip


def as_json(summary: Summary, settings: Mapping[str, object]) -> str:
    """Return the report for programs: what was asked and what came out."""
    return json.dumps({"schema": SCHEMA, "settings": dict(settings), "summary": asdict(summary)}, indent=2)


def as_csv(records: Sequence[Record]) -> str:
    """Return one line per request, in the order they were due; seconds from the start of the run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for record in records:
        first = record.arrivals[0] if record.arrivals else None
        writer.writerow(
            (
                record.index,
                _s(record.due_s),
                _s(record.sent_s),
                _s(first),
                _s(record.end_s),
                _s(record.ttft_s) if record.is_ok else "",
                _s(record.tpot_s),
                _s(record.e2e_s),
                _s(max(record.gaps(), default=None)),
                len(record.arrivals),
                record.prompt_tokens,
                record.completion_tokens,
                record.finish_reason,
                record.failure,
                record.message,
            )
        )
    return text.getvalue()


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.6f}"


def format_s(seconds: float) -> str:
    """Return a latency for people: ``0.42 ms``, ``12.3 ms``, ``1.23 s``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


LATENCIES = (
    ("TTFT", "ttft", "due to first text"),
    ("ITL", "itl", "between pieces"),
    ("TPOT", "tpot", "per further token"),
    ("E2E", "e2e", "due to end of the answer"),
    ("lag", "lag", "client late, part of all"),
)


def as_table(summary: Summary) -> str:
    """Return the report for a terminal."""
    lines = [
        f"{summary.ok} of {summary.requests} requests answered in {summary.elapsed_s:.1f} s"
        + (" (ended early)" if summary.is_interrupted else ""),
        f"  {summary.requests_per_s:.2f} requests/s, {summary.tokens_per_s:.1f} output tokens/s"
        + ("" if summary.is_counted else " (pieces: the server does not count)")
        + f", at most {summary.peak_in_flight} at once",
        f"  {summary.prompt_tokens} prompt tokens, {summary.completion_tokens} output tokens",
    ]
    if summary.goal:
        asked = ", ".join(f"{name.removesuffix('_s')} <= {format_s(limit)}" for name, limit in summary.goal.items())
        share = summary.good / summary.requests if summary.requests else 0.0
        lines.append(
            f"  goal {asked}: {summary.good} met it ({share:.1%}), goodput {summary.good_per_s:.2f} requests/s"
        )
    for kind, count in summary.failures.items():
        lines.append(f"  failed, {kind}: {count}, e.g. {summary.examples[kind][:160]}")
    names = list(summary.e2e.quantiles) or ["p50", "p90", "p95", "p99", "p99.9"]
    lines += ["", f"{'':6}{'mean':>10}" + "".join(f"{name:>10}" for name in names) + f"{'max':>10}"]
    for label, field_name, meaning in LATENCIES:
        value: Spread = getattr(summary, field_name)
        if value.count:
            cells = [value.mean, *value.quantiles.values(), value.high]
            lines.append(f"{label:6}" + "".join(f"{format_s(cell):>10}" for cell in cells) + f"   {meaning}")
    return "\n".join(lines)
