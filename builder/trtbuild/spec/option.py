"""What an option is, and how a field of a frozen value declares the one that fills it.

An option is said once, where its value is: type, default, bounds and the help text. The table of options
(``table.py``), and with it flags, variables, engine.yaml and the reference, are made from these fields.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

Section = Literal["model", "engine", "repository", "store", "server"]
Kind = Literal["str", "int", "float", "bool", "path", "bytes", "choice", "choices", "words", "pairs"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, in all its spellings.

    ``max_batch_size`` is ``--max-batch-size``, ``TRTBUILD_MAX_BATCH_SIZE`` and ``max_batch_size:`` in engine.yaml.

    Attributes:
        name: Snake-case name, as in engine.yaml.
        kind: How text becomes a value; ``bytes`` takes ``20GiB``; ``choices`` is a list (repeatable on the command
            line, with commas in a variable), ``words`` one without ``choices``; ``pairs`` is a mapping (``name=value``
            on the command line, repeatable).
        default: Value when none is given; None means "decided by the plan".
        help: One line for ``--help`` and the reference.
        section: Which frozen value the option ends up in.
        choices: Legal values of a ``choice``, and of the parts of ``choices``.
        flags: Extra spellings on the command line.
        minimum: Smallest legal number.
        maximum: Largest legal number.
    """

    name: str
    kind: Kind
    help: str
    section: Section
    default: Any = None
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def flag(self) -> str:
        """The long flag, e.g. ``--max-batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable, e.g. ``TRTBUILD_MAX_BATCH_SIZE``."""
        return "TRTBUILD_" + self.name.upper()


def option(
    help: str,
    *,
    default: Any = MISSING,
    section: Section | None = None,
    kind: Kind | None = None,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare the option of a field; its name is the field's, its kind and choices follow from the field's type.

    Args:
        help: One line for ``--help`` and the reference.
        default: Value when none is given; an empty mapping or tuple where that is the field's type.
        section: Another section than that of the field's class.
        kind: What the type does not say: ``bytes``.
        choices: What the type does not say, for lists and for names that are data.
        flags: Extra spellings on the command line.
        minimum: Smallest legal number.
        maximum: Largest legal number.
    """
    said = {"help": help, "flags": flags, "minimum": minimum, "maximum": maximum}
    metadata = {"option": said, "section": section, "kind": kind, "choices": choices}
    return field(default=default, metadata=metadata)


def no_pairs(help: str) -> Any:
    """Declare an option of ``NAME=VALUE`` pairs, of which there are none by default."""
    return field(
        default_factory=dict, metadata={"option": {"help": help}, "section": None, "kind": None, "choices": ()}
    )
