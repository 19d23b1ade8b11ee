"""The engine model of the llmapi backend as Triton loads it; ``engine_worker.py`` computes, in a process of its own."""

from __future__ import annotations

from trtbuild_engine.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
