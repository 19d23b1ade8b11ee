"""The load client's own cost: how exactly it keeps a schedule, and what a stream costs beside other clients.

The others are aiohttp and httpx reading the same streams (``peers.py``) and Locust at the same load, where installed.

    python -m benchmarks.client.run [--locust PATH] [--seconds N] [--json FILE]

Everything runs on this machine against a server that costs next to nothing, in a process of its own. CPU time is the
client's process only (user and system); the start-up of each program is measured with one request and taken off. The
clients take turns.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCUSTFILE = HERE.parents[1] / "clients" / "locustfile.py"
TOKENS, GAP_S = 50, 0.02
RATES = (20, 100, 300)
STREAMS = (10, 100, 300)
PEERS = tuple(name for name in ("aiohttp", "httpx") if importlib.util.find_spec(name))


class Server:
    """The stand-in, as a context."""

    def __init__(self, tokens: int = TOKENS, gap_s: float = GAP_S) -> None:
        arguments = [sys.executable, str(HERE / "server.py"), str(tokens), str(gap_s)]
        self._child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self._child.stdout is not None
        return f"http://127.0.0.1:{int(self._child.stdout.readline())}"

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.wait()


def timed(arguments: list[str], env: dict[str, str] | None = None) -> tuple[str, float]:
    """Return the output of a program and the CPU seconds of its process."""
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return output.read(), usage.ru_utime + usage.ru_stime


def trtclient(url: str, prompts: Path, *more: str) -> tuple[dict[str, Any], float]:
    arguments = [sys.executable, "-m", "trtclient", "load", url, "m", "--prompts", str(prompts), "--format", "json"]
    out, cpu_s = timed([*arguments, *more])
    summary = json.loads(out)["summary"]
    assert summary["ok"] == summary["requests"], summary["failures"]
    return summary, cpu_s


def peer(name: str, url: str, streams: int, seconds: float) -> tuple[int, float]:
    """Return the tokens that a general HTTP client read and its CPU seconds."""
    target = f"{url}/v2/models/m/generate_stream"
    out, cpu_s = timed([sys.executable, str(HERE / "peers.py"), name, target, str(streams), str(seconds)])
    return int(out), cpu_s


def locust(program: str, url: str, users: int, seconds: int, directory: Path) -> tuple[int, float]:
    """Return the requests that Locust completed and its CPU seconds."""
    prefix = directory / f"locust-{users}-{seconds}"
    _, cpu_s = timed(
        [program, "-f", str(LOCUSTFILE), "--host", url, "--headless", "-u", str(users),
         "-r", str(users), "-t", f"{seconds}s", "--csv", str(prefix), "--only-summary", "--stop-timeout", "10"],
        {"TRTCLIENT_MODEL": "m", "TRTCLIENT_WAIT_S": "0", "TRTCLIENT_MAX_TOKENS": str(TOKENS)},
    )  # fmt: skip
    with (directory / f"{prefix.name}_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    row = rows.get("generate_stream")
    assert row is None or int(row["Failure Count"]) == 0
    return (int(row["Request Count"]) if row else 0), cpu_s


def schedule(seconds: int, prompts: Path) -> list[dict[str, Any]]:
    rows = []
    with Server(5, 0.01) as url:
        for rate in RATES:
            summary, _ = trtclient(
                url, prompts, "--rate", str(rate), "--arrival", "constant", "--duration", f"{seconds}s"
            )
            lag = summary["lag"]
            rows.append({"rate": rate, "requests": summary["requests"], "mean_s": lag["mean"], "max_s": lag["high"],
                         "p50_s": lag["quantiles"]["p50"], "p99_s": lag["quantiles"]["p99"]})  # fmt: skip
    return rows


def cost(seconds: int, prompts: Path, program: str | None, directory: Path) -> list[dict[str, Any]]:
    rows = []
    with Server() as url:
        _, start_s = trtclient(url, prompts, "--concurrency", "1", "--requests", "1")
        peer_starts_s = {name: peer(name, url, 1, 0)[1] for name in PEERS}
        locust_start_s = locust(program, url, 1, 1, directory)[1] if program else 0.0
        for streams in STREAMS:
            summary, cpu_s = trtclient(url, prompts, "--concurrency", str(streams), "--duration", f"{seconds}s")
            row = {"streams": streams, "requests": summary["requests"],
                   "us_per_token": (cpu_s - start_s) / summary["completion_tokens"] * 1e6}  # fmt: skip
            for name in PEERS:
                tokens, peer_s = peer(name, url, streams, seconds)
                row[f"{name}_us_per_token"] = (peer_s - peer_starts_s[name]) / tokens * 1e6
            if program:
                count, peer_s = locust(program, url, streams, seconds, directory)
                row |= {
                    "locust_requests": count,
                    "locust_us_per_token": (peer_s - locust_start_s) / (count * TOKENS) * 1e6,
                }
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--locust", default=shutil.which("locust"), help="locust, where there is one")
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prompts = directory / "prompts.txt"
        prompts.write_text("hello\n")
        result = {
            "schedule": schedule(options.seconds, prompts),
            "cost": cost(options.seconds, prompts, options.locust, directory),
        }
    print("how late requests are sent (due to sent)")
    print(f"{'requests/s':>11}{'requests':>10}{'mean ms':>10}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    for row in result["schedule"]:
        numbers = "".join(f"{row[name] * 1000:>10.2f}" for name in ("mean_s", "p50_s", "p99_s", "max_s"))
        print(f"{row['rate']:>11}{row['requests']:>10}{numbers}")
    print(f"\nCPU of the client, {TOKENS} tokens per answer, one every {GAP_S * 1000:g} ms and stream")
    others = [name for name in (*PEERS, "locust") if f"{name}_us_per_token" in result["cost"][0]]
    print(f"{'streams':>8}{'requests':>10}{'us/token':>10}" + "".join(f"{name:>10}{'ratio':>7}" for name in others))
    for row in result["cost"]:
        line = f"{row['streams']:>8}{row['requests']:>10}{row['us_per_token']:>10.1f}"
        for name in others:
            cost_us = row[f"{name}_us_per_token"]
            line += f"{cost_us:>10.1f}{cost_us / row['us_per_token']:>7.2f}"
        print(line)
    if not options.locust:
        print("locust was not found: no comparison (pip install locust, or --locust PATH)")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
