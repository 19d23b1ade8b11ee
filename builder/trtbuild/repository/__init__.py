"""Write the Triton model repository: see ``render``."""

from trtbuild.repository.render import (
    TEMPLATES,
    ServedModel,
    quote_pbtxt,
    render_repository,
    unwritable,
    write_repository,
)

__all__ = ["TEMPLATES", "ServedModel", "quote_pbtxt", "render_repository", "unwritable", "write_repository"]
