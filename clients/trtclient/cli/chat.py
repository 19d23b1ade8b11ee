"""``trtclient chat``: a conversation in the terminal."""

from __future__ import annotations

from typing import Any

import click

from trtclient.cli.options import configure_log, server_options


@click.command()
@click.argument("url")
@click.argument("model")
@click.option("--system", default="", help="System message at the head of the conversation.")
@click.option("-m", "--message", "messages", multiple=True, help="Say this and leave; repeatable, one turn each.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Most tokens per answer."
)
@server_options
def chat(
    url: str,
    model: str,
    system: str,
    messages: tuple[str, ...],
    max_tokens: int,
    api: str | None,
    parameters: tuple[tuple[str, Any], ...],
    token: str,
    ca_file: str | None,
) -> int:
    """Talk to MODEL at URL. Answers stream; the server's model applies its chat template.

    Ctrl-C ends the answer, here and on the server; at the prompt it leaves. Piped input is read as one message a line.
    Type /help for what else there is.
    """
    configure_log("auto")
    from trtclient import apis
    from trtclient.chat import Chat, Conversation

    conversation = Conversation(system=system, max_tokens=max_tokens, parameters=dict(parameters))
    talk = Chat(lambda: apis.connect(url, model, name=api or "", token=token, ca_file=ca_file), conversation)
    return talk.say_all(messages) if messages else talk.run()
