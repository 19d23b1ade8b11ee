"""The tensorrt_llm backend: engines compiled by trtllm-build, served by the C++ backend."""
