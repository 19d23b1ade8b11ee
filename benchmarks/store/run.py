"""The store: what a hit, a publish, a verification and a transfer cost, each as a ratio to the plainest thing.

    python benchmarks/store/run.py [--directory DIR] [--runs 5] [--size 256MiB] [--json FILE]

- hit: ``get`` of a 1 MB engine and of a 16 GiB (sparse) one; the ratio should be 1.
- publish: staging to entry (hash, sync, rename) against ``cp`` and ``sync`` of the same bytes.
- verify: all hashes, in parallel, against one ``sha256sum`` of the same files.
- push and pull: a directory tier against ``cp`` of the same bytes (pull also hashes everything); and, where moto and
  boto3 are installed, an S3 server on this machine against boto3's own managed transfers to and from it.

``cpu`` rows are processor seconds. Quote the ratios: absolute times are the machine's. All sides of a ratio run in
turn, in one process, on one directory.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trtbuild.console import log
from trtbuild.plan import EngineKey
from trtbuild.spec import parse_bytes
from trtbuild.store import Entry, FileRecord, Shared, Store, open_tier
from trtbuild.store.manifest import make_manifest
from trtbuild.store.publish import publish_verified

RANKS = 4


def make_key(name: str) -> EngineKey:
    return EngineKey(fields={"name": name}, model_part="bench", sku_part="none", shape_part="tp4")


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_of(work: Callable[[], object]) -> float:
    """Return the processor seconds of ``work`` and its children: steadier than wall time on a busy machine."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before


def plant(store: Store, name: str, size: int) -> EngineKey:
    """Publish ``RANKS`` sparse files of ``size`` bytes in all, with made-up hashes: a hit does not look at them."""
    key = make_key(name)
    with store.stage(key) as staging:
        files = {}
        for rank in range(RANKS):
            path = staging.path / f"rank{rank}.engine"
            with path.open("wb") as stream:
                stream.truncate(size // RANKS)
            files[path.name] = FileRecord(size=size // RANKS, sha256="0" * 64)
        publish_verified(store.directory, staging, make_manifest(key, files, {}, now=time.time()))
    return key


def bench_hits(root: Path, runs: int) -> dict[str, float]:
    store = Store(root / "hits")
    keys = {"1 MB": plant(store, "small", 1_000_000), "16 GiB": plant(store, "large", 16 << 30)}
    times: dict[str, list[float]] = {name: [] for name in keys}
    for _ in range(runs * 40):
        for name, key in keys.items():
            times[name].append(timed(lambda key=key: store.get(key)))  # type: ignore[misc]
    small, large = (statistics.median(times[name]) for name in keys)
    return {"hit of 1 MB": small, "hit of 16 GiB": large, "hit: 16 GiB / 1 MB": large / small}


def fill(directory: Path, size: int) -> None:
    block = os.urandom(1 << 20)
    directory.mkdir(parents=True, exist_ok=True)
    for rank in range(RANKS):
        with (directory / f"rank{rank}.engine").open("wb") as stream:
            for n in range(size // RANKS >> 20):
                stream.write(bytes([rank, n % 256]) + block[2:])


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)


def bench_publish(root: Path, runs: int, size: int) -> tuple[dict[str, float], Store, Entry]:
    source, store = root / "source", Store(root / "store")
    fill(source, size)
    publishes, copies, verifies, sums = [], [], [], []
    entry: Entry | None = None
    for n in range(runs):
        key = make_key(f"publish{n}")
        copies.append(timed(lambda n=n: copy(source, root / f"copy{n}")))  # type: ignore[misc]
        shutil.rmtree(root / f"copy{n}")
        if entry:
            store.remove([entry])
        with store.stage(key) as staging:

            def publish(key: EngineKey = key, staging: object = staging) -> Entry:
                subprocess.run(["cp", "-r", f"{source}/.", str(staging.path)], check=True)  # type: ignore[attr-defined]
                return store.publish(key, staging, {})  # type: ignore[arg-type]

            publishes.append(timed(publish))
        found = store.get(key)
        assert isinstance(found, Entry)
        entry = found
        verifies.append(timed(functools.partial(store.verify, entry)))
        files = [str(path) for path in sorted(entry.path.glob("*.engine"))]
        sha256sum = functools.partial(subprocess.run, ["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        sums.append(timed(sha256sum))
    assert entry is not None
    copied, published = statistics.median(copies), statistics.median(publishes)
    verified, summed = statistics.median(verifies), statistics.median(sums)
    return (
        {
            "cp + sync": copied,
            "cp + publish": published,
            "publish: ratio to cp": published / copied,
            "verify": verified,
            "sha256sum": summed,
            "verify: ratio to sha256sum": verified / summed,
        },
        store,
        entry,
    )


def bench_tier(
    name: str, make_url: Callable[[int], str], root: Path, store: Store, entry: Entry, runs: int, peer: Peer
) -> dict[str, float]:
    """Push to and pull from a fresh tier each time, in turn with a peer that moves the same files."""
    times: dict[str, list[float]] = {}

    def note(row: str, work: Callable[[], object]) -> None:
        times.setdefault(row, []).append(timed(work))

    for n in range(runs):
        url, other = make_url(n), Store(root / f"other-{name}-{n}")
        note(f"{peer.name} there", lambda n=n: peer.push(entry.path, n))  # type: ignore[misc]
        note("push", lambda url=url: Shared(store, open_tier(url)).push(entry))  # type: ignore[misc]
        back = root / f"back-{n}"
        peer_cpu = cpu_of(lambda n=n, back=back: note(f"{peer.name} back", lambda: peer.pull(back, n)))  # type: ignore[misc]
        own_cpu = cpu_of(
            lambda url=url, other=other: note("pull", lambda: Shared(other, open_tier(url)).pull(entry.key))  # type: ignore[misc]
        )
        times.setdefault("pull cpu", []).append(own_cpu)
        times.setdefault(f"{peer.name} back cpu", []).append(peer_cpu)
        found = other.get(entry.key)
        assert isinstance(found, Entry), found
        assert not other.verify(found)
        remove(other.root)
        remove(back)
    median = {row: statistics.median(values) for row, values in times.items()}
    ratios = {
        f"push / {peer.name}": median["push"] / median[f"{peer.name} there"],
        f"pull / {peer.name}": median["pull"] / median[f"{peer.name} back"],
        f"pull cpu / {peer.name} cpu": median["pull cpu"] / max(1e-9, median[f"{peer.name} back cpu"]),
    }
    return {f"{name}: {row}": value for row, value in (median | ratios).items()}


class Cp:
    """``cp`` and ``sync`` into a directory and back."""

    name = "cp"

    def __init__(self, root: Path) -> None:
        self._root = root

    def push(self, source: Path, n: int) -> None:
        copy(source, self._root / f"cp-{n}")

    def pull(self, target: Path, n: int) -> None:
        copy(self._root / f"cp-{n}", target)
        remove(self._root / f"cp-{n}")


class Boto3:
    """boto3's managed transfers, four files at once, with its defaults."""

    name = "boto3"

    def __init__(self, bucket: str) -> None:
        import boto3

        self._client = boto3.client("s3")
        self._bucket = bucket
        self._files: list[str] = []

    def push(self, source: Path, n: int) -> None:
        self._files = sorted(path.name for path in source.glob("*.engine"))
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda f: self._client.upload_file(str(source / f), self._bucket, f"peer-{n}/{f}"), self._files
                )
            )

    def pull(self, target: Path, n: int) -> None:
        target.mkdir()
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda f: self._client.download_file(self._bucket, f"peer-{n}/{f}", str(target / f)), self._files
                )
            )


Peer = Cp | Boto3


def remove(directory: Path) -> None:
    for parent, _, _ in os.walk(directory):
        Path(parent).chmod(0o700)
    shutil.rmtree(directory)


def with_s3(root: Path, store: Store, entry: Entry, runs: int) -> dict[str, float]:
    code = (
        "import sys,time,pathlib;from moto.server import ThreadedMotoServer as S;s=S(port=0,verbose=False);s.start();"
        "pathlib.Path(sys.argv[1]).write_text(str(s.get_host_and_port()[1]));time.sleep(3600)"
    )
    port_file = root / "port"
    child = subprocess.Popen([sys.executable, "-c", code, str(port_file)], stderr=subprocess.DEVNULL)
    try:
        while not (port_file.exists() and port_file.read_text()):
            if child.poll() is not None:
                return {}
            time.sleep(0.1)
        endpoint = f"http://127.0.0.1:{port_file.read_text()}"
        os.environ.update(
            AWS_ENDPOINT_URL=endpoint,
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="x",
            AWS_REGION="us-east-1",
            AWS_DEFAULT_REGION="us-east-1",
        )
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")).close()
        return bench_tier("s3", lambda n: f"s3://bench/engines-{n}", root, store, entry, runs, Boto3("bench"))
    finally:
        child.terminate()
        child.wait()


def make_tier(path: Path) -> str:
    path.mkdir()
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; default: the temporary directory")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=parse_bytes, default=256 << 20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    log.configure(log_format="text", level="warning")
    root = Path(tempfile.mkdtemp(prefix="store-bench-", dir=options.directory))
    try:
        results = bench_hits(root, options.runs)
        published, store, entry = bench_publish(root, options.runs, options.size)
        results |= published
        results |= bench_tier(
            "directory", lambda n: make_tier(root / f"tier-{n}"), root, store, entry, options.runs, Cp(root)
        )
        results |= with_s3(root, store, entry, options.runs)
    finally:
        remove(root)
    for name, value in results.items():
        is_ratio = "ratio" in name or " / " in name
        print(f"{name:<36} {value:>10.2f}" if is_ratio else f"{name:<36} {value * 1000:>10.2f} ms")
    if options.json:
        options.json.write_text(json.dumps({"size_bytes": options.size, "results": results}, indent=1))


if __name__ == "__main__":
    main()
