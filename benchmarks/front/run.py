"""Benchmark: the front model against TensorRT-LLM's own style of serving text, on one server, in one run.

    python benchmarks/front/run.py [--seconds 6] [--streams 1,8,64,256] [--json FILE]

Three ways from text to text over the same engine stand-in (a C++ backend that sends one response per token, as
TensorRT-LLM's does): ``front`` is this project's front model, ``ensemble`` and ``bls`` are written after the
documented tensors of TensorRT-LLM's templates. First the engine is as fast as it can be (what does a token cost on
its way?), then it is paced at 50 tokens/s per stream (does the way keep up?). Numbers are ratios within one run; the
machine's speed cancels out.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "model_repo_templates" / "_shared"), str(HERE / "upstream")]

import any_tokenizer  # noqa: E402
from trtbuild_front.transport import kserve  # noqa: E402
from trtbuild_front.transport.connection import Connection  # noqa: E402

from trtbuild import process  # noqa: E402
from trtbuild.plan import EngineInfo, EngineTemplate  # noqa: E402
from trtbuild.repository import ServedModel, write_repository  # noqa: E402
from trtbuild.serve import probes  # noqa: E402
from trtbuild.serve.access import make_secrets  # noqa: E402
from trtbuild.serve.launch import server_command  # noqa: E402
from trtbuild.serve.ports import choose_ports  # noqa: E402
from trtbuild.serve.server import find_server, prepare_server  # noqa: E402
from trtbuild.spec import ServerSpec  # noqa: E402

SLOTS = 256
TOKENS = 100
PACE_US = 20_000
PROMPT = "The quick brown fox jumps over the lazy dog, and then it writes a benchmark about it. " * 4
NAMES = {"front": "chat", "ensemble": "ensemble", "bls": "tensorrt_llm_bls"}
TOKENIZER = ROOT / "examples" / "pydoc-llama"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table. ``cpu_us_per_token`` counts the server and all its model processes, not the client."""

    way: str
    engine: str
    streams: int
    tokens_per_s: float
    requests_per_s: float
    responses_per_s: float
    cpu_us_per_token: float
    first_token_ms: float
    bad: int


class Client:
    """A closed loop of streams on one connection."""

    def __init__(self, port: int, model: str, has_batch: bool, streams: int) -> None:
        self._connection = Connection("127.0.0.1", port)
        lead = (1, 1) if has_batch else (1,)
        inputs = {
            "text_input": np.full(lead, PROMPT.encode(), np.object_),
            "max_tokens": np.full(lead, TOKENS, np.int32),
            "stream": np.full(lead, True),
        }
        self._body = kserve.encode_request(model, "", inputs, ["text_output"])
        self._streams = streams
        self.counts: collections.Counter[str] = collections.Counter()
        self.first_token_s: list[float] = []
        self.is_over = False

    def begin(self) -> None:
        self._connection.call(kserve.STREAM_INFER, self._body, _Stream(self))

    def run(self, seconds: float) -> float:
        """Send for ``seconds``; return the seconds until all answers were there."""
        started = time.monotonic()
        self.is_over = False
        for _ in range(self._streams):
            self.begin()
        while self._connection.has_calls:
            self._connection.step(0.02)
            self.is_over = time.monotonic() - started > seconds
            if self._connection.failure:
                raise RuntimeError(self._connection.failure)
        return time.monotonic() - started

    def close(self) -> None:
        self._connection.close()


class _Stream:
    def __init__(self, client: Client) -> None:
        self._client, self._started, self._size = client, time.monotonic(), 0

    def on_message(self, message: bytes) -> None:
        response = kserve.decode_response(message)
        self._client.counts["responses"] += 1
        self._client.counts["bad"] += bool(response.error)
        if (text := response.outputs.get("text_output")) is not None:
            if not self._size:
                self._client.first_token_s.append(time.monotonic() - self._started)
            self._size += len(text.reshape(-1)[0])

    def on_end(self, status: int, detail: str) -> None:  # noqa: ARG002 - the connection's callback
        self._client.counts["requests"] += 1
        self._client.counts["bad"] += bool(status) or not self._size
        if not self._client.is_over:
            self._client.begin()


def write_models(directory: Path, token_period_us: int, bls_instances: int) -> Path:
    """Write a repository with all three ways over one engine."""
    engine = directory / "engine"
    shutil.copytree(HERE / "engine", engine, dirs_exist_ok=True)
    (engine / "1").mkdir(exist_ok=True)
    library = engine / "1" / "libtriton_tokens.so"
    if not library.exists():
        command = (
            "g++",
            "-O2",
            "-std=c++17",
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            str(HERE / "engine" / "tokens.cc"),
        )
        done = process.run(process.Command(argv=command))
        if done.exit_code:
            raise SystemExit("\n".join(["the engine stand-in does not compile:", *done.tail]))
    info = EngineInfo(
        backend="tokens", tp_size=1, pp_size=1, max_batch_size=SLOTS, max_input_len=2048, max_seq_len=4096,
        max_num_tokens=4096, dtype="none", vocab_size=1024,
    )  # fmt: skip
    variables = {"slots": SLOTS, "token_period_us": token_period_us, "max_batch_size": 1}
    model = ServedModel(
        served_name="chat",
        engine_template=EngineTemplate(directory=str(engine), variables=dict(variables)),
        engine_info=info,
        tokenizer_dir=TOKENIZER,
        layout="full",
    )
    written = write_repository(directory / f"written-{token_period_us}", [model])
    repository = directory / f"repository-{token_period_us}"
    shutil.copytree(written.resolve(), repository)
    for name in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        shutil.rmtree(repository / name / "1")
        (repository / name / "1").mkdir()
        source = f"import sys; sys.path.insert(0, {str(HERE / 'upstream')!r})\n" + (
            HERE / "upstream" / f"{name}.py"
        ).read_text().replace("from __future__ import annotations\n", "")
        (repository / name / "1" / "model.py").write_text(source)
    config = repository / "tensorrt_llm_bls" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU count: 1", f"KIND_CPU count: {bls_instances}"))
    return repository


@contextmanager
def serving(repository: Path, cache: Path) -> Iterator[tuple[int, int]]:
    """Run the server; yield its gRPC port and process id."""
    search_path = os.environ["PATH"]
    server = prepare_server(find_server(search_path), cache_dir=cache, search_path=search_path)
    ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    log_path = cache / f"{repository.name}.log"
    command = server_command(server, repository, ServerSpec(), ports, secrets=make_secrets({}))
    child = process.start(command, log_path=log_path)
    try:
        url = f"http://127.0.0.1:{ports.http}"
        deadline = time.monotonic() + 300
        while not probes.is_up(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log_path.read_text()[-3000:]}")
            time.sleep(0.2)
        yield ports.grpc, child.pid
    finally:
        process.stop(child, grace_s=40)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants so far."""
    parents: dict[int, list[int]] = collections.defaultdict(list)
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(fields[1])].append(int(path.parent.name))
        ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        total += ticks.get(one, 0)
        todo += parents[one]
    return total / os.sysconf("SC_CLK_TCK")


def measure(way: str, engine: str, port: int, pid: int, streams: int, seconds: float) -> Result:
    """Warm one way up and measure it."""
    client = Client(port, NAMES[way], has_batch=way != "front", streams=streams)
    client.run(min(1.0, seconds / 4))
    client.counts.clear()
    client.first_token_s.clear()
    before = cpu_seconds(pid)
    elapsed = client.run(seconds)
    used = cpu_seconds(pid) - before
    client.close()
    tokens = client.counts["requests"] * TOKENS
    return Result(
        way=way,
        engine=engine,
        streams=streams,
        tokens_per_s=round(tokens / elapsed, 1),
        requests_per_s=round(client.counts["requests"] / elapsed, 2),
        responses_per_s=round(client.counts["responses"] / elapsed, 1),
        cpu_us_per_token=round(used / tokens * 1e6, 1),
        first_token_ms=round(statistics.median(client.first_token_s) * 1e3, 1),
        bad=client.counts["bad"],
    )


def show(results: list[Result]) -> None:
    """Print the table, each way relative to the best other one."""
    head = f"{'engine':>10} {'streams':>7} {'way':>9} {'tokens/s':>10} {'req/s':>8}"
    print(f"{head} {'cpu us/token':>13} {'first token ms':>15}")
    for result in results:
        print(
            f"{result.engine:>10} {result.streams:>7} {result.way:>9} {result.tokens_per_s:>10.0f} "
            f"{result.requests_per_s:>8.1f} {result.cpu_us_per_token:>13.1f} {result.first_token_ms:>15.1f}"
            + (f"   {result.bad} BAD" if result.bad else "")
        )
    for engine, streams in dict.fromkeys((result.engine, result.streams) for result in results):
        group = {r.way: r for r in results if (r.engine, r.streams) == (engine, streams)}
        others = [r.tokens_per_s for way, r in group.items() if way != "front"]
        if "front" in group and others:
            ratio = group["front"].tokens_per_s / max(others)
            print(f"{engine}, {streams} streams: front carries {ratio:.1f} x the tokens/s of the better of the others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds per line of the table")
    parser.add_argument("--streams", default="1,8,64,256")
    parser.add_argument("--ways", default="front,ensemble,bls")
    parser.add_argument("--bls-instances", type=int, default=8, help="one request each at a time, one process each")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    streams = [int(text) for text in arguments.streams.split(",")]
    ways = arguments.ways.split(",")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="front-benchmark-") as name:
        directory = Path(name)
        for engine, period_us, counts in (("flat out", 0, streams), ("50/s each", PACE_US, [max(streams)])):
            repository = write_models(directory, period_us, arguments.bls_instances)
            with serving(repository, directory) as (port, pid):
                for count in counts:
                    for way in ways:
                        if way == "bls" and period_us and count > arguments.bls_instances:
                            continue  # an instance serves one request at a time: only the line would be measured
                        results.append(measure(way, engine, port, pid, count, arguments.seconds))
                        print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
    print(f"tokenizer of the comparison models: {any_tokenizer.kind()}; {TOKENS} tokens per request, {SLOTS} slots")
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
