"""Build TensorRT-LLM engines, keep them per GPU SKU, and serve them with Triton Inference Server."""

from __future__ import annotations

__version__ = "0.1.0"
