"""What is asked of SmolLM2 in tests; ``tools/record_smollm2.py`` writes transformers' answers to reference.json."""

from __future__ import annotations

NEW_TOKENS = 48

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "SELECT name FROM users WHERE",
    "1, 2, 3, 4, 5, 6, 7,",
    "Water boils at",
)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


CHATS: tuple[list[dict[str, str]], ...] = (
    [_user("What is the capital of France?")],
    [_user("Name three colours of the rainbow.")],
    [{"role": "system", "content": "You are a pirate."}, _user("Who are you?")],
    [
        _user("My name is Ada."),
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        _user("What is my name?"),
    ],
    [{"role": "system", "content": ""}, _user("Translate 'good morning' to French.")],
    [_user("  Zwei Zeilen,\n\n'mit' \"Zeichen\" & <b>Äöü</b> 12345 🙂  ")],
)

TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces\tand a tab\n\n\nthree lines\r\n",
    "In 2024, 1234567890 people paid 3.14 €.",
    "don't, I'll, they've, WE'RE",
    "naïve café Ünïcödé ﬁ ½ ²",
    "日本語のテキスト 中文 한국어 עברית العربية",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|> <|im_end|><|endoftext|><repo_name>x<file_sep>",
    "<|im_start |im_end|>",
    "\x00\x01\x7f\u200b\ufeff\u2028",
    "a" * 100,
    "if (x == 1) {\n\treturn y[0][1];\n}",
    "https://example.org/a?b=c&d=%20#e",
)
