"""How much one request may take, in one place: docs/front-model.md has the same numbers.

Every bound is looked at before the work that it bounds, and every refusal names the input, the bound and the value.
"""

from __future__ import annotations

MAX_TEXT_BYTES = 8 << 20
"""Longest prompt, whatever the engine takes: tokenizing needs some 250 bytes of memory per byte of text."""

BYTES_PER_TOKEN_UNPROVEN = 256
"""Bytes of prompt per token where the tokenizer may drop text, so that no length is certain to be too long."""

SMALLEST_TEXT_LIMIT_BYTES = 64 << 10
"""Prompts up to this length are always tokenized where only :data:`BYTES_PER_TOKEN_UNPROVEN` speaks against them."""

SHORT_TEXT_BYTES = 32 << 10
"""Longer texts are tokenized in a thread of their own; a short one takes some tens of milliseconds at most."""

PROBE_BYTES_PER_TOKEN = 16
"""A long text is refused when so many bytes of it, per token that the engine takes, hold twice as many tokens."""

MAX_MESSAGES_BYTES = 8 << 20
"""Longest ``messages``, as JSON text."""

MESSAGES_PER_TEXT = 4
"""Bytes of ``messages`` per byte of the longest prompt: JSON escapes, and what templates leave out."""

MAX_MESSAGES = 4096
"""Most turns of a conversation."""

MAX_DEPTH = 64
"""Deepest nesting of the JSON in ``messages``."""

MAX_DIGITS = 40
"""Longest whole number in ``messages``; 64 bits have 20 digits."""

MAX_WORDS = 256
"""Most strings in ``stop_words``, and in ``bad_words``."""

MAX_WORD_BYTES = 1024
"""Longest string in either."""

MAX_WORDS_BYTES = 16 << 10
"""All strings of either together."""

MAX_STRINGS = 64 << 10
"""Strings of one tensor that are read at all: 256 rows of :data:`MAX_WORDS`. More take the interpreter for too long."""

MAX_PARAMETERS_BYTES = 64 << 10
"""Request parameters as JSON text: what a client sent that is no input."""

MAX_TEMPLATE_BYTES = 1 << 20
"""Longest chat template; published ones have up to 30 kB."""

MAX_RENDERERS = 4
"""Processes that render conversations, and threads that wait for them. The first one starts with the model."""

QUICK_RENDER_S = 0.25
"""A conversation that takes longer is slow; ordinary ones take milliseconds."""

MAX_RENDERING = 256
"""Conversations that wait for a renderer or are in one. Over HTTP it is not known which clients have given up."""

HURRIED_RENDER_S = 0.1
"""What takes the place of :data:`QUICK_RENDER_S` while many conversations are slow: a line of them ends soon."""

SLOW_BEFORE_HURRY = 8
"""Slow conversations within :data:`HURRY_S` after which the others are hurried."""

HURRY_S = 10.0
"""How long slow conversations are remembered."""

MAX_SLOW_RENDERERS = 2
"""Slow conversations at once: the other renderers stay free for quick ones, however many slow ones are sent."""

RENDER_CPU_S = 2
"""Processor time that a template may take for one conversation, and to be compiled."""

RENDER_S = 5.0
"""Time that it may take on a busy machine."""

RENDERER_START_S = 30.0
"""Time in which a renderer has to start and to compile the template."""

RENDERER_MEMORY_BYTES = 512 << 20
"""Address space of a renderer; the interpreter and Jinja need some 40 MB of it."""
