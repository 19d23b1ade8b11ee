"""A stand-in for TensorRT-LLM's LLM API: the names, signatures and behaviour that the llmapi engine process relies on.

It generates ``last token + 1, + 2, ...`` modulo the vocabulary, one token at a time, and ends at ``end_id``, a stop
token or ``max_tokens``. A prompt that starts with token 13 makes it fail in the middle, one with 19 with another error;
one that starts with token 17 waits inside for :data:`WAIT_S` before it is scheduled.

Like the real one, it takes penalties, seeds and bad words whatever happens to them: only a sampler that applies them
does (a penalty makes it take every second token, a seed shifts the first one). Which does depends on the version.
Source of the shapes: tensorrt_llm 1.x, llmapi/llm.py, sampling_params.py, executor/result.py; of what is ignored: pull
requests 16485, 17172 and 18232 of NVIDIA/TensorRT-LLM, features/sampling of 1.0.0, 1.3.0rc24 and rc26.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

__version__ = os.environ.get("TRTBUILD_TEST_TRTLLM_VERSION", "1.2.1")
VOCABULARY = 1000
WAIT_S = 0.2
_KNOWN = {
    "model", "backend", "dtype", "tensor_parallel_size", "pipeline_parallel_size", "max_batch_size", "max_input_len",
    "max_seq_len", "max_num_tokens", "skip_tokenizer_init", "trust_remote_code", "kv_cache_config",
    "enable_chunked_prefill", "scheduler_config",
}  # fmt: skip
_SAMPLER_ARGUMENTS = {"1.0.3": "enable_trtllm_sampler", "1.1.0rc0": "use_torch_sampler"}  # later: sampler_type


def _applies_all(arguments: dict[str, Any]) -> bool:
    """Whether the sampler that the arguments select applies penalties, seeds and bad words."""
    if __version__ in {"1.3.0rc26", "1.4.0rc4"}:
        if arguments.get("sampler_type", "auto") not in {"auto", "TorchSampler"}:
            raise ValueError("sampler_type: TRTLLMSampler was removed")
        return True
    return bool(arguments.get("enable_trtllm_sampler")) or arguments.get("sampler_type") == "TRTLLMSampler"


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    end_id: int
    pad_id: int
    max_tokens: int
    detokenize: bool
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    bad_token_ids: list[int] | None = None
    logprobs: int | None = None
    return_perf_metrics: bool = False


@dataclasses.dataclass
class Timing:
    arrival_time: datetime.timedelta
    first_scheduled_time: datetime.timedelta


@dataclasses.dataclass
class PerfMetrics:
    timing_metrics: Timing


@dataclasses.dataclass
class Logprob:
    logprob: float
    rank: int = 1


@dataclasses.dataclass
class CompletionOutput:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str | None = None
    request_perf_metrics: PerfMetrics | None = None


class RequestOutput:
    def __init__(self, prompt: list[int], params: SamplingParams, *, applies_all: bool) -> None:
        self.prompt, self.params = prompt, params
        self._applies_all = applies_all
        self.outputs = [CompletionOutput([], [])]
        self.finished = False
        self._is_aborted = False

    def abort(self) -> None:
        self._is_aborted = True

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        completion, params = self.outputs[0], self.params
        token = self.prompt[-1]
        wait_s = WAIT_S if self.prompt[0] == 17 else 0.0
        await asyncio.sleep(wait_s)
        if params.return_perf_metrics:
            arrived = datetime.timedelta(days=1)  # of a clock of its own
            timing = Timing(arrived, arrived + datetime.timedelta(seconds=wait_s))
            completion.request_perf_metrics = PerfMetrics(timing)
        while not self.finished:
            await asyncio.sleep(0.005)
            if self._is_aborted:
                completion.finish_reason, self.finished = "cancelled", True
                yield self
                return
            if self.prompt[0] == 13 and len(completion.token_ids) == 3:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if self.prompt[0] == 19 and len(completion.token_ids) == 3:
                raise LookupError("request 4711 is unknown")
            token = (token + self._step(completion)) % VOCABULARY
            while self._applies_all and token in (params.bad_token_ids or ()):
                token = (token + 1) % VOCABULARY
            if token == params.end_id:
                completion.finish_reason, self.finished = "stop", True
                yield self
                return
            completion.token_ids.append(token)
            if params.logprobs is not None:
                completion.logprobs.append({token: Logprob(-0.5)})
            if token in (params.stop_token_ids or ()):
                completion.finish_reason, self.finished = "stop", True
            elif len(completion.token_ids) == params.max_tokens:
                completion.finish_reason, self.finished = "length", True
            yield self

    def _step(self, completion: CompletionOutput) -> int:
        params = self.params
        if not self._applies_all:
            return 1
        step = 2 if params.repetition_penalty or params.presence_penalty or params.frequency_penalty else 1
        return step + (params.seed or 0) % 10 if not completion.token_ids else step


class LLM:
    def __init__(self, **arguments: Any) -> None:
        unknown = set(arguments) - _KNOWN - {_SAMPLER_ARGUMENTS.get(__version__, "sampler_type")}
        if unknown:
            raise ValueError(f"unknown arguments {sorted(unknown)}")
        if not (Path(arguments["model"]) / "config.json").is_file():
            raise FileNotFoundError(f"no config.json in {arguments['model']}")
        record = os.environ.get("TRTBUILD_TEST_LLM_RECORD")
        if record:
            Path(record).write_text(json.dumps(arguments))
        self._record = record
        self._applies_all = _applies_all(arguments)

    def generate_async(self, inputs: list[int], sampling_params: SamplingParams, *, streaming: bool) -> RequestOutput:
        assert streaming
        assert isinstance(sampling_params, SamplingParams)
        if sampling_params.top_p is not None and sampling_params.top_p > 1:
            raise ValueError("top_p must be at most 1")
        return RequestOutput(inputs, sampling_params, applies_all=self._applies_all)

    def shutdown(self) -> None:
        if self._record:
            Path(self._record).with_suffix(".shutdown").touch()
