"""An engine without a model, for tests: in-flight batching on a clock, and the prompt again as its answer.

It speaks the tensor contract of an engine model. Every ``step_s`` seconds each running request gets one token: the
prompt's tokens in turn. How each request went is appended to the file ``record`` as a JSON line. A prompt with token 2
in it fails.
"""

from __future__ import annotations

import collections
import json
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FAILING_TOKEN = 2


class Job:
    def __init__(self, request: Any, lead: tuple[int, ...]) -> None:
        inputs = {tensor.name(): tensor.as_numpy().reshape(-1).copy() for tensor in request.inputs()}
        self.request_id = request.request_id()
        self.asks_to_stop = bool(inputs.get("stop", np.array([False]))[0])
        self.is_unwanted = False
        self.sender = request.get_response_sender()
        self.lead = lead
        self.prompt = inputs["input_ids"].tolist()
        self.left = int(inputs["request_output_len"][0])
        self.ends = set(inputs.get("end_id", np.array([-1])).tolist())
        words = inputs.get("stop_words_list", np.zeros(0, np.int32))
        self.ends |= set(words[: words.size // 2].tolist())
        self.has_log_probs = bool(inputs.get("return_log_probs", np.array([False]))[0])
        self.streaming = bool(inputs.get("streaming", np.array([False]))[0])
        self.unsent: list[int] = []
        self.arrival_ns = time.time_ns()
        self.scheduled_ns = self.first_ns = self.last_ns = 0
        self.count = 0
        self.inputs = sorted(inputs)

    def step(self) -> bool:
        token = self.prompt[self.count % len(self.prompt)]
        self.count += 1
        self.left -= 1
        self.last_ns = time.time_ns()
        self.first_ns = self.first_ns or self.last_ns
        is_last = self.left <= 0 or token in self.ends
        self.unsent.append(token)
        if not self.streaming and not is_last:
            return False
        tokens, self.unsent = self.unsent, []
        outputs = [self.tensor("output_ids", [tokens], np.int32)]
        outputs.append(self.tensor("sequence_length", [len(tokens)], np.int32))
        if self.has_log_probs:
            outputs.append(self.tensor("output_log_probs", [[-0.5] * len(tokens)], np.float32))
            outputs.append(self.tensor("cum_log_probs", [-0.5 * self.count], np.float32))
        if is_last:
            for name in ("arrival", "first_scheduled", "first_token", "last_token"):
                value = {"first_scheduled": self.scheduled_ns, "first_token": self.first_ns}.get(
                    name, self.arrival_ns if name == "arrival" else self.last_ns
                )
                outputs.append(self.tensor(f"{name}_time_ns", [value], np.int64))
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
        self.sender.send(pb_utils.InferenceResponse(outputs), flags=flags)
        return is_last

    def tensor(self, name: str, value: Any, dtype: Any) -> Any:
        array = np.array(value, dtype)
        return pb_utils.Tensor(name, array.reshape((*self.lead, *array.shape)))

    def fail(self, message: str) -> None:
        self.sender.send(
            pb_utils.InferenceResponse(error=pb_utils.TritonError(message)),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.lead = (1,) if config["max_batch_size"] else ()
        self.slots, self.step_s = int(values["slots"]), float(values["step_s"])
        self.record = open(values["record"], "a", encoding="utf-8")  # noqa: PTH123, SIM115 - open as long as the model
        self.waiting: collections.deque[Job] = collections.deque()
        self.running: list[Job] = []
        self.wake, self.stopping = threading.Event(), False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            job = Job(request, self.lead)
            if job.asks_to_stop:
                for other in [*self.waiting, *self.running]:
                    other.is_unwanted = other.is_unwanted or other.request_id == job.request_id
                job.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            elif FAILING_TOKEN in job.prompt:
                job.fail("the stand-in engine refuses this prompt")
            else:
                self.waiting.append(job)
        self.wake.set()

    def run(self) -> None:
        due = time.monotonic()
        while not self.stopping:
            if not self.waiting and not self.running:
                self.wake.wait(0.1)
                due = time.monotonic()
            self.wake.clear()
            while self.waiting and len(self.running) < self.slots:
                job = self.waiting.popleft()
                job.scheduled_ns = time.time_ns()
                self.running.append(job)
            due = max(due + self.step_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            for job in list(self.running):
                if job.is_unwanted or job.sender.is_cancelled():
                    job.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                    self.end(job, "cancelled")
                elif job.step():
                    self.end(job, "done")

    def end(self, job: Job, how: str) -> None:
        self.running.remove(job)
        entry = {"how": how, "tokens": job.count, "inputs": job.inputs, "arrival_ns": job.arrival_ns}
        entry["id"] = job.request_id
        entry |= {"scheduled_ns": job.scheduled_ns, "last_ns": job.last_ns, "prompt": job.prompt[:64]}
        print(json.dumps(entry), file=self.record, flush=True)

    def finalize(self) -> None:
        self.stopping = True
        self.thread.join()
        self.record.close()
