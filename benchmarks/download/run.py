"""Download speed against huggingface_hub and against bare sockets, and what a killed download repeats.

    python benchmarks/download/run.py [--size-mib 1024] [--files 4] [--rounds 3] [--json FILE]

Everything is measured in one run against the same local hub in a process of its own, so that only ratios between the
rows mean something; the rows of a round follow each other and rounds repeat, against drift of the machine. All clients
write to the same disk and end with the same files; ``raw sockets`` reads the same bytes over as many connections and
throws them away, which is what the machine can carry at most.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
MODEL = "bench/model"
CONNECTIONS = 8

OURS = """
    import os, sys
    from pathlib import Path
    from trtbuild import fetch

    hub = fetch.Hub.from_env(os.environ)
    cache = fetch.cache_directory(os.environ)
    found = fetch.resolve("bench/model", "main", hub=hub, cache=cache)
    fetch.snapshot(found, cache=cache, hub=hub)
"""
THEIRS = """
    from huggingface_hub import snapshot_download

    snapshot_download("bench/model", max_workers=8)
"""


def make_model(root: Path, size_mib: int, files: int) -> None:
    """Write a sharded model of noise; safetensors headers are right, so that nothing is special about it."""
    folder = root / MODEL
    folder.mkdir(parents=True)
    names = [f"model-{n + 1:05d}-of-{files:05d}.safetensors" for n in range(files)]
    count = (size_mib << 20) // files
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    for name in names:
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            for _ in range(count >> 20):
                stream.write(os.urandom(1 << 20))
            stream.write(os.urandom(count & ((1 << 20) - 1)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


class Hub:
    """The stub hub in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_stub", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout
        self.endpoint = self._child.stdout.readline().strip()

    def body_bytes(self) -> int:
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return int(json.loads(self._child.stdout.readline())["body_bytes"])

    def close(self) -> None:
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(timeout=10)


def environment(endpoint: str, cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def start(source: str, endpoint: str, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=environment(endpoint, cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(child: subprocess.Popen[bytes]) -> None:
    _, error = child.communicate()
    if child.returncode:
        raise SystemExit(f"a client failed:\n{error.decode()[-3000:]}")


def download_with(source: str) -> Callable[[str, Path], None]:
    def download(endpoint: str, cache: Path) -> None:
        finish(start(source, endpoint, cache))

    return download


def hf_download(endpoint: str, cache: Path) -> None:
    tool = shutil.which("hf") or str(Path(sys.executable).with_name("hf"))
    done = subprocess.run(
        [tool, "download", MODEL], env=environment(endpoint, cache), capture_output=True, check=False, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"hf download failed:\n{done.stderr.decode()[-3000:]}")


def raw_sockets(endpoint: str, cache: Path) -> None:
    """Read every shard over CONNECTIONS plain sockets into one buffer each."""
    source = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import run
        run.read_all({endpoint!r})
    """
    finish(start(source, endpoint, cache))


def read_all(endpoint: str) -> None:
    tree = json.loads(_request(endpoint, f"/api/models/{MODEL}/tree/main?recursive=true")[1])
    parts = []
    for entry in tree:
        size = entry["size"]
        if "lfs" in entry:
            step = -(-size // 2)
            parts += [(entry["path"], at, min(size, at + step) - 1) for at in range(0, size, step)]
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        assert all(pool.map(lambda part: _drain(endpoint, *part), parts))


def _drain(endpoint: str, path: str, first: int, last: int) -> bool:
    headers, _ = _request(endpoint, f"/{MODEL}/resolve/main/{path}")
    location = urlsplit(next(line.split(": ", 1)[1] for line in headers.split("\r\n") if line.startswith("Location")))
    with socket.create_connection((location.hostname or "", location.port or 80)) as connection:
        ask = f"GET {location.path}?{location.query} HTTP/1.1\r\nHost: x\r\nRange: bytes={first}-{last}\r\n\r\n"
        connection.sendall(ask.encode())
        buffer, received, wanted = bytearray(1 << 18), 0, last - first + 1
        while received < wanted:
            count = connection.recv_into(buffer)
            if not count:
                return False
            received += count
    return True


def _request(endpoint: str, path: str) -> tuple[str, bytes]:
    parts = urlsplit(endpoint)
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode(), body


def measure(hub: Hub, work: Path, rounds: int) -> dict[str, list[float]]:
    clients: dict[str, Callable[[str, Path], None]] = {
        "trtbuild": download_with(OURS),
        "huggingface_hub": download_with(THEIRS),
        "hf download": hf_download,
        "raw sockets": raw_sockets,
    }
    seconds: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name, download in clients.items():
            cache = work / "cache"
            os.sync()  # so that no run pays for the previous one's writes
            began = time.perf_counter()
            download(hub.endpoint, cache)
            seconds[name].append(time.perf_counter() - began)
            shutil.rmtree(cache, ignore_errors=True)
    return seconds


def measure_kill(source: str, hub: Hub, work: Path, size: int) -> dict[str, Any]:
    """Kill -9 a download at about 60%, run it again, and count what the hub sent beyond one copy."""
    cache = work / "killed"
    before = hub.body_bytes()
    child = start(source, hub.endpoint, cache)
    while hub.body_bytes() - before < size * 0.6 and child.poll() is None:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    was_killed = child.returncode == -signal.SIGKILL
    at = hub.body_bytes() - before
    finish(start(source, hub.endpoint, cache))
    total = hub.body_bytes() - before
    blobs = [path for path in cache.rglob("blobs/*") if path.is_file()]
    for path in blobs:
        if len(path.name) == 64:
            with path.open("rb") as stream:
                assert hashlib.file_digest(stream, "sha256").hexdigest() == path.name
    orphans = sum(path.stat().st_size for path in blobs if not path.name.isalnum())
    shutil.rmtree(cache)
    return {
        "was_killed": was_killed,
        "sent_before_kill_bytes": at,
        "repeated_bytes": total - size,
        "orphan_bytes": orphans,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", dest="output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtbuild-bench-") as name:
        work = Path(name)
        make_model(work / "models", options.size_mib, options.files)
        size = sum(path.stat().st_size for path in (work / "models" / MODEL).iterdir() if path.suffix == ".safetensors")
        hub = Hub(work / "models")
        try:
            seconds = measure(hub, work, options.rounds)
            kills = {"trtbuild": measure_kill(OURS, hub, work, size)}
            kills["huggingface_hub"] = measure_kill(THEIRS, hub, work, size)
        finally:
            hub.close()
    best = {name: min(times) for name, times in seconds.items()}
    rows = {
        name: {
            "seconds": [round(value, 3) for value in times],
            "median_s": round(statistics.median(times), 3),
            "best_mib_per_s": round(size / best[name] / (1 << 20), 1),
            "speed_relative_to_huggingface_hub": round(
                statistics.median(seconds["huggingface_hub"]) / statistics.median(times), 2
            ),
        }
        for name, times in seconds.items()
    }
    result = {
        "size_bytes": size,
        "files": options.files,
        "rounds": options.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "download": rows,
        "kill_9_at_60_percent": kills,
    }
    print(
        f"{size / (1 << 20):.0f} MiB in {options.files} files, {options.rounds} rounds, one machine for hub and client"
    )
    print(f"{'client':<18}{'median s':>10}{'best MiB/s':>12}{'vs huggingface_hub':>20}")
    for name, row in rows.items():
        ratio = row["speed_relative_to_huggingface_hub"]
        print(f"{name:<18}{row['median_s']:>10}{row['best_mib_per_s']:>12}{ratio:>19}x")
    for name, kill in kills.items():
        repeated, orphans = kill["repeated_bytes"] / (1 << 20), kill["orphan_bytes"] / (1 << 20)
        print(f"kill -9 at 60%, {name}: {repeated:.1f} MiB repeated, {orphans:.1f} MiB left as orphans")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
