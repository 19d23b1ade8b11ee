"""``trtbuild completion``: the script that a shell loads."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(trtbuild completion bash)"     in ~/.bashrc
    zsh:  eval "$(trtbuild completion zsh)"      in ~/.zshrc
    fish: trtbuild completion fish > ~/.config/fish/completions/trtbuild.fish
    """
    from click.shell_completion import get_completion_class

    from trtbuild.cli.app import app

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(app, {}, "trtbuild", "_TRTBUILD_COMPLETE").source())
