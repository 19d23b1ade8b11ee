"""The store: what a hit, a publish, a verification and a transfer cost, each as a ratio to the plainest thing.

    python benchmarks/store/run.py [--directory DIR] [--runs 5] [--size 256MiB] [--json FILE]

- hit: ``get`` of a 1 MB engine and of a 16 GiB (sparse) one; the ratio should be 1.
- publish: staging to entry (hash, sync, rename) against ``cp`` and ``sync`` of the same bytes.
- verify: all hashes, in parallel, against one ``sha256sum`` of the same files.
- push and pull: a directory tier, and with moto a real S3 server on this machine, against ``cp`` of the same bytes.

Quote the ratios: absolute times are the machine's. All sides of a ratio run in turn, in one process, on one directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trtbuild import log
from trtbuild.plan import EngineKey
from trtbuild.spec import parse_bytes
from trtbuild.store import Entry, FileRecord, Shared, Store, open_tier
from trtbuild.store.manifest import make_manifest

RANKS = 4


def make_key(name: str) -> EngineKey:
    return EngineKey(fields={"name": name}, model_part="bench", sku_part="none", shape_part="tp4")


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


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
        store.publish_verified(staging, make_manifest(key, files, {}, now=time.time()))
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
        verifies.append(timed(lambda entry=entry: store.verify(entry)))  # type: ignore[misc]
        files = [str(path) for path in sorted(entry.path.glob("*.engine"))]
        sums.append(
            timed(lambda files=files: subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL))
        )  # type: ignore[misc]
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


def bench_tier(name: str, url: str, root: Path, store: Store, entry: Entry, copied: float) -> dict[str, float]:
    pushed = timed(lambda: Shared(store, open_tier(url)).push(entry))
    other = Store(root / f"other-{name}")
    pulled = timed(lambda: Shared(other, open_tier(url)).pull(entry.key))
    found = other.get(entry.key)
    assert isinstance(found, Entry) and not other.verify(found), found
    return {
        f"{name}: push": pushed,
        f"{name}: pull": pulled,
        f"{name}: push ratio to cp": pushed / copied,
        f"{name}: pull ratio to cp": pulled / copied,
    }


def with_s3(root: Path, store: Store, entry: Entry, copied: float) -> dict[str, float]:
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
            AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_REGION="us-east-1"
        )
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT")).close()
        return bench_tier("s3 (moto)", "s3://bench/engines", root, store, entry, copied)
    finally:
        child.terminate()
        child.wait()


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
        (root / "tier").mkdir()
        results |= bench_tier("directory", str(root / "tier"), root, store, entry, published["cp + sync"])
        results |= with_s3(root, store, entry, published["cp + sync"])
    finally:
        for parent, _, _ in os.walk(root):
            Path(parent).chmod(0o700)
        shutil.rmtree(root)
    for name, value in results.items():
        is_ratio = "ratio" in name or "/" in name
        print(f"{name:<32} {value:>10.2f}" if is_ratio else f"{name:<32} {value * 1000:>10.2f} ms")
    if options.json:
        options.json.write_text(json.dumps({"size_bytes": options.size, "results": results}, indent=1))


if __name__ == "__main__":
    main()
