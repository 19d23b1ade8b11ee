"""A process that renders conversations with a model's chat template, and can be killed.

A template comes with downloaded weights and is as trusted as they are. Its loops, powers and strings cannot be bounded
from inside the interpreter, and a thread cannot be stopped; a process can. It decides how much memory and processor
time a conversation gets. ``rendering.py`` starts it, asks it and gives up on it.

Run as ``python -I -S renderer.py DIRECTORY...`` with the directories of its modules and a socket as standard input.
``--check MODEL`` before the directories renders one message with the template of a model directory; what is wrong is
written to standard output, as JSON, and the exit status is 1.

Messages in both directions: four bytes with the length, big endian, then so many bytes. The first one to it is JSON,
``{"source": ..., "special_tokens": ...}``, every other one eight bytes with the longest prompt wanted, four with the
length of the options, the options and the conversation. Its answers begin with ``+`` (then the prompt, UTF-8) or ``-``
(then the reason, UTF-8).
"""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

NICENESS = 5  # tokens of other requests first


def receive(connection: socket.socket) -> bytes | None:
    """Return the next message, None when the other side has ended."""
    head = _receive_exactly(connection, 4)
    return None if head is None else _receive_exactly(connection, int.from_bytes(head, "big"))


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def _send(connection: socket.socket, sign: bytes, text: str) -> None:
    body = sign + text.encode(errors="replace")
    connection.sendall(len(body).to_bytes(4, "big") + body)


def _limit_processor_time(seconds: int) -> None:
    """Let the system kill this process when it takes so many more seconds, wherever it is then."""
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, resource.RLIM_INFINITY))


def _close_off(memory_bytes: int) -> None:
    """Give up what a renderer never needs: memory, files, a core dump."""
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def serve(connection: socket.socket) -> int:
    """Answer until the other side ends; return the exit status."""
    from trtbuild_front.faults import RequestError
    from trtbuild_front.limits import RENDER_CPU_S, RENDERER_MEMORY_BYTES
    from trtbuild_front.text.chat import ChatTemplate, explain, parse_messages, parse_options

    first = receive(connection)
    if first is None:
        return 0
    setup = json.loads(first)
    _close_off(RENDERER_MEMORY_BYTES)
    _limit_processor_time(RENDER_CPU_S)
    try:
        template = ChatTemplate(setup["source"], setup["special_tokens"])
        _send(connection, b"+", "")
    except ValueError as error:
        _send(connection, b"-", str(error))
        return 0
    while (message := receive(connection)) is not None:
        _limit_processor_time(RENDER_CPU_S)
        try:
            end = 12 + int.from_bytes(message[8:12], "big")
            messages, options = parse_messages(message[end:].decode()), parse_options(message[12:end].decode())
            _send(connection, b"+", template.render(messages, int.from_bytes(message[:8], "big"), options))
        except RequestError as error:
            _send(connection, b"-", str(error))
        except Exception as error:  # noqa: BLE001  memory ran out while reading; the request still needs an answer
            _send(connection, b"-", f"messages: they cannot be read: {explain(error)}")
    return 0


def check(directory: Path) -> int:
    """Compile the template of a model and render one message with it; return the exit status."""
    from trtbuild_front.faults import RequestError
    from trtbuild_front.limits import MAX_TEMPLATE_BYTES, RENDER_CPU_S, RENDERER_MEMORY_BYTES
    from trtbuild_front.text.chat import ChatTemplate, template_source
    from trtbuild_front.text.whole_tokenizer import NAMED, named_tokens, text_of

    _close_off(RENDERER_MEMORY_BYTES)
    _limit_processor_time(RENDER_CPU_S)
    path = directory / "tokenizer_config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else {}
        source = template_source(directory, config if isinstance(config, dict) else {})
        if source is not None and len(source) > MAX_TEMPLATE_BYTES:
            raise ValueError(f"the chat template has {len(source)} characters; expected at most {MAX_TEMPLATE_BYTES}")
        if source is not None:
            named = named_tokens(config if isinstance(config, dict) else {}, {})
            texts = {name: text for name in NAMED if (text := text_of(named.get(name)))}
            ChatTemplate(source, texts).render([{"role": "user", "content": "Hello"}])
    except (OSError, ValueError, RecursionError, RequestError) as error:
        sys.stdout.write(json.dumps({"fault": str(error)}) + "\n")
        return 1
    return 0


def main() -> int:
    """Take the directories of the command line into the path and serve standard input."""
    is_check = sys.argv[1:2] == ["--check"]
    sys.path[:0] = sys.argv[3:] if is_check else sys.argv[1:]
    if is_check:
        return check(Path(sys.argv[2]))
    with socket.socket(fileno=os.dup(0)) as connection, suppress(ConnectionError):
        return serve(connection)
    return 0


if __name__ == "__main__":
    sys.exit(main())
