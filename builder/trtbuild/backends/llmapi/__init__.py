"""The llmapi backend: checkpoints served by the LLM API, without an engine."""
