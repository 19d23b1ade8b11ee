"""Text to tokens and back: prompts, conversations, decoding and stop strings. It knows no requests and no engine."""
