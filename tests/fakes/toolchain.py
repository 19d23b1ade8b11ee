"""Stand-ins for TensorRT-LLM's tools: they take the real command lines and write the real layout, without a GPU.

Each tool is an argparse parser made from the catalog's tables for one release, so that an option or a value the real
tool would refuse is refused here with the same words. What they write has the true file names and fields; engines and
weights are a few bytes. They can be told to fail the way the real ones do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from trtbuild import catalog
from trtbuild.catalog import TrtLlmRelease
from trtbuild.process import Command, Completed

# How the real tools fail: their words and exit code. Source: the issues listed in catalog/complaints.yaml.
FAILURES: dict[str, tuple[int, tuple[str, ...]]] = {
    "gpu-memory": (1, ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",)),
    "killed": (137, ()),
    "crash": (139, ("Segmentation fault (core dumped)",)),
    "library": (1, ("ImportError: libnvinfer.so.10: cannot open shared object file: No such file or directory",)),
    "disk": (1, ("OSError: [Errno 28] No space left on device",)),
    "unknown-error": (3, ("ValueError: an error that is not in the table",)),
}


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a run goes.

    Attributes:
        fail_in: ``convert`` or ``build``; "" for success.
        failure: Name in :data:`FAILURES`, or ``partial``: a rank is missing, and the tool says all went well.
    """

    fail_in: str = ""
    failure: str = ""


class _Parser(argparse.ArgumentParser):
    """An argparse parser that refuses abbreviations, so that a misspelt option never passes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


@cache
def build_parser(version: str) -> argparse.ArgumentParser:
    """Return the parser of ``trtllm-build`` of a release."""
    release, parser = catalog.trtllm(version), _Parser("trtllm-build")
    for option in {option.name: option for option in release.build_options.values()}.values():
        spellings = [f"--{name}" for name in (option.name, *option.also)]
        if option.kind == "flag":
            parser.add_argument(*spellings, dest=option.name, action="store_true")
        elif option.kind == "list":
            parser.add_argument(*spellings, dest=option.name, nargs="+")
        elif option.kind == "int":
            parser.add_argument(*spellings, dest=option.name, type=int, default=option.default and int(option.default))
        else:
            choices = option.choices or None
            parser.add_argument(*spellings, dest=option.name, choices=choices, default=option.default)
    return parser


@cache
def convert_parser(version: str, name: str) -> argparse.ArgumentParser:
    """Return the parser of a family's ``convert_checkpoint.py``."""
    parser = _Parser("convert_checkpoint.py")
    family = next(family for family in catalog.trtllm(version).families if family.name == name)
    flags = family.flags
    parser.add_argument(flags["model"], dest="model", type=Path, required=True)
    parser.add_argument(flags["output"], dest="output", type=Path, required=True)
    parser.add_argument(flags["tp"], dest="tp", type=_positive, default=1)
    if "pp" in flags:
        parser.add_argument(flags["pp"], dest="pp", type=_positive, default=1)
    parser.add_argument(flags["dtype"], dest="dtype", choices=family.dtypes, required=True)
    if "workers" in flags:
        parser.add_argument(flags["workers"], dest="workers", type=_positive, default=1)
    if "cpu" in flags:
        parser.add_argument(flags["cpu"], dest="cpu", action="store_true")
    for option in family.options:
        if option == "--use_weight_only":
            parser.add_argument(option, action="store_true")
        elif option in {"--weight_only_precision", "--use-weight-only-with-precision"}:
            parser.add_argument(option, dest="weight_only_precision", choices=["int8", "int4"])
        elif option == "--ckpt-type":
            parser.add_argument(option, choices=["jax", "keras", "torch", "hf"], required=True)
        elif option == "--gpt_variant":
            parser.add_argument(option, choices=["gpt2", "santacoder", "starcoder", "starcoder2", "nemotron"])
        else:
            parser.add_argument(option)
    return parser


@cache
def quantize_parser(version: str) -> argparse.ArgumentParser:
    """Return the parser of ``quantize.py``."""
    tool, parser = catalog.trtllm(version).quantize, _Parser("quantize.py")
    flags = tool.flags
    parser.add_argument(flags["model"], dest="model", type=Path, required=True)
    parser.add_argument(flags["output"], dest="output", type=Path, required=True)
    parser.add_argument(flags["dtype"], dest="dtype", choices=tool.dtypes, default="auto")
    parser.add_argument(flags["qformat"], dest="qformat", choices=tool.qformats, default="full_prec")
    parser.add_argument(flags["kv_cache_dtype"], dest="kv_cache_dtype", choices=tool.kv_cache_dtypes)
    parser.add_argument(flags["tp"], dest="tp", type=_positive, default=1)
    parser.add_argument(flags["pp"], dest="pp", type=_positive, default=1)
    parser.add_argument(flags["calib_dataset"], dest="calib_dataset", default="cnn_dailymail")
    for name in ("calib_size", "seed", "awq_block_size"):
        parser.add_argument(flags[name], dest=name, type=int)
    for option in tool.options:
        parser.add_argument(option)
    return parser


# Names of quantization in checkpoints. Source: tensorrt_llm/quantization/mode.py, QuantAlgo.
_ALGORITHMS = {
    "full_prec": None, "int8_wo": "W8A16", "int4_wo": "W4A16", "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ", "w4a8_awq": "W4A8_AWQ", "fp8": "FP8", "nvfp4": "NVFP4",
}  # fmt: skip


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace | None, list[str]]:
    """Return the arguments, or None and what argparse printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        return parser.parse_args(argv), []
    return None, printed.getvalue().splitlines()


def _put(path: Path, data: bytes) -> None:
    """Write a file unless it holds just that: the bulk tests build thousands of engines into few directories."""
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)


def _architecture(model: Path) -> str:
    return str(json.loads((model / "config.json").read_text())["architectures"][0])


def _write_checkpoint(
    output: Path, *, architecture: str, args: argparse.Namespace, algorithm: str | None, is_partial: bool
) -> None:
    pp = getattr(args, "pp", 1)
    world = args.tp * pp
    output.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": architecture,
        "dtype": args.dtype,
        "logits_dtype": "float32",
        "vocab_size": 1000,
        "mapping": {"world_size": world, "tp_size": args.tp, "pp_size": pp, "cp_size": 1},
        "quantization": {
            "quant_algo": algorithm,
            "kv_cache_quant_algo": (getattr(args, "kv_cache_dtype", None) or "").upper() or None,
        },
    }
    _put(output / "config.json", json.dumps(config).encode())
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    for rank in range(world - 1 if is_partial else world):
        _put(output / f"rank{rank}.safetensors", struct.pack("<Q", len(header)) + header + b"\x01")


def run_convert(
    script: str, argv: Sequence[str], release: TrtLlmRelease, *, is_partial: bool = False
) -> tuple[int, list[str]]:
    """Run a family's converter; return exit code and output."""
    family = next((f for f in release.families if any(script.endswith(path) for path in f.scripts)), None)
    if family is None:
        return 2, [f"python: can't open file '{script}': [Errno 2] No such file or directory"]
    args, printed = _parse(convert_parser(release.version, family.name), argv)
    if args is None:
        return 2, printed
    if family.pp_sizes and getattr(args, "pp", 1) not in family.pp_sizes:
        return 1, ["AssertionError: Pipeline parallelism is not supported."]
    architecture = _architecture(args.model)
    if architecture not in family.architectures:
        return 1, [f"AssertionError: Unsupported model architecture: {architecture}"]
    algorithm = {None: None, "int8": "W8A16", "int4": "W4A16"}[args.weight_only_precision]
    _write_checkpoint(args.output, architecture=architecture, args=args, algorithm=algorithm, is_partial=is_partial)
    return 0, [release.version, "Total time of converting checkpoints: 00:00:01"]


def run_quantize(argv: Sequence[str], release: TrtLlmRelease, *, is_partial: bool = False) -> tuple[int, list[str]]:
    """Run the quantizer; return exit code and output."""
    args, printed = _parse(quantize_parser(release.version), argv)
    if args is None:
        return 2, printed
    if not Path(args.calib_dataset).is_dir():
        return 1, [f"ConnectionError: Couldn't reach '{args.calib_dataset}' on the Hub, dataset unavailable"]
    architecture = _architecture(args.model)
    if architecture not in release.quantize.presets:
        return 1, [f"NotImplementedError: Unsupported model type {architecture}"]
    _write_checkpoint(
        args.output,
        architecture=architecture,
        args=args,
        algorithm=_ALGORITHMS[args.qformat],
        is_partial=is_partial,
    )
    return 0, [f"Quantized model exported to {args.output}. Total time used 1.00 s."]


def _timings(args: argparse.Namespace) -> bytes:
    """Return the timing cache after a build: what was there, and a line for a shape that was not."""
    cache = args.input_timing_cache and Path(args.input_timing_cache)
    known = cache.read_bytes() if cache and cache.is_file() else b""
    line = f"kernels for {args.max_batch_size} requests\n".encode()
    return known if line in known else known + line


def run_build(argv: Sequence[str], release: TrtLlmRelease, *, is_partial: bool = False) -> tuple[int, list[str]]:
    """Run the compiler; return exit code and output. config.json comes first, as with the real one."""
    args, printed = _parse(build_parser(release.version), argv)
    if args is None:
        return 2, printed
    checkpoint = json.loads((Path(args.checkpoint_dir) / "config.json").read_text())
    world = checkpoint["mapping"]["world_size"]
    for rank in range(world):
        if not (Path(args.checkpoint_dir) / f"rank{rank}.safetensors").is_file():
            return 1, [f"FileNotFoundError: rank{rank}.safetensors"]
    cache, algorithm = (checkpoint["quantization"][name] for name in ("kv_cache_quant_algo", "quant_algo"))
    if args.use_paged_context_fmha == "enable" and cache is not None:
        if cache == "INT8":
            return 1, ["RuntimeError: Paged Context FMHA doesn't work with int8 kv cache currently."]
        if algorithm not in {"FP8", "W4A8_AWQ", "NVFP4"}:
            return 1, ["RuntimeError: FP8 Paged Context FMHA only works with fp8 quantization workflow currently."]
    options = {option.name: option for option in release.build_options.values()}
    plugins = {
        name: value == "enable" if options[name].kind == "switch" else value
        for name, value in vars(args).items()
        if name.endswith("_plugin") or options[name].kind == "switch"
    }
    limits = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width")
    document = {
        "version": release.version,
        "pretrained_config": checkpoint,
        "build_config": {**{name: getattr(args, name) for name in limits}, "plugin_config": plugins},
    }
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    _put(output / "config.json", json.dumps(document).encode())
    lines = [f"[TensorRT-LLM] TensorRT-LLM version: {release.version}"]
    for rank in range(world - 1 if is_partial else world):
        lines.append(f"[TRT-LLM] [I] Serializing engine to {output}/rank{rank}.engine...")
        _put(output / f"rank{rank}.engine", f"engine of rank {rank}\n".encode())
    _put(Path(args.output_timing_cache), _timings(args))
    return 0, [*lines, "[TRT-LLM] [I] Total time of building all engines: 00:00:01"]


def run_tool(argv: Sequence[str], version: str, mode: Mode) -> tuple[int, list[str]]:
    """Run the tool that a command line names; return exit code and output."""
    release = catalog.trtllm(version)
    program = Path(argv[0]).name
    stage = "build" if program == "trtllm-build" else "convert"
    is_partial = mode.fail_in == stage and mode.failure == "partial"
    if mode.fail_in == stage and not is_partial:
        exit_code, words = FAILURES[mode.failure]
        return exit_code, ["[TRT-LLM] [I] working", *words]
    if program == "trtllm-build":
        return run_build(argv[1:], release, is_partial=is_partial)
    if argv[1].endswith("quantize.py"):
        return run_quantize(argv[2:], release, is_partial=is_partial)
    return run_convert(argv[1], argv[2:], release, is_partial=is_partial)


@dataclass(kw_only=True)
class Recorder:
    """Runs commands inside this process, in place of :func:`trtbuild.process.run`, and remembers them."""

    version: str
    mode: Mode = field(default_factory=Mode)
    commands: list[Command] = field(default_factory=list)

    def __call__(
        self,
        command: Command,
        *,
        log_path: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Completed:
        """Run a command as the real runner would: log, lines, exit code."""
        self.commands.append(command)
        assert command.cwd is not None, "tools run in the work directory, never in the caller's"
        if "huggingface_hub.cli.hf" in command.argv:
            Path(command.argv[-1]).mkdir(parents=True)
            exit_code, lines = 0, ["downloaded"]
        else:
            exit_code, lines = run_tool(command.argv, self.version, self.mode)
        for line in lines:
            if on_line:
                on_line(line)
        if log_path:
            _put(log_path, "".join(f"{line}\n" for line in lines).encode())
        return Completed(exit_code=exit_code, tail=tuple(lines), elapsed_s=0.0, log_path=log_path)


def lay_out_examples(root: Path, release: TrtLlmRelease) -> Path:
    """Create the scripts of a release's image below ``root`` and return it; each runs :func:`main`."""
    scripts = [script for family in release.families for script in family.scripts[:1]]
    for script in (*scripts, release.quantize.script):
        path = root / script
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import sys\nfrom tests.fakes.toolchain import main\nsys.exit(main(sys.argv))\n")
    return root


def main(argv: Sequence[str]) -> int:
    """Run as a program: version and mode come from the environment.

    ``TRTBUILD_TEST_TRTLLM`` is the version, ``TRTBUILD_TEST_FAIL`` is ``stage:failure``.
    """
    import os
    import signal
    import sys

    stage, _, failure = os.environ.get("TRTBUILD_TEST_FAIL", "").partition(":")
    program = [] if Path(argv[0]).name == "trtllm-build" else [sys.executable]
    mode = Mode(fail_in=stage, failure=failure)
    exit_code, lines = run_tool([*program, *argv], os.environ["TRTBUILD_TEST_TRTLLM"], mode)
    for line in lines:
        print(line, flush=True)
    if exit_code == 137:
        os.kill(os.getpid(), signal.SIGKILL)
    return exit_code
