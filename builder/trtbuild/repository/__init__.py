"""Write the Triton model repository: render, check as strictly as the server would, swap in at once.

It decides names of models, what a repository must satisfy before anyone sees it, and how versions replace each other.

On disk ``root`` is a symbolic link to ``.<root name>.versions/<digest of the contents>`` beside it. A version is
written under another name and renamed, and the link is replaced by a rename, so a server that starts at any moment
sees a whole repository. Equal contents have an equal digest: writing them again changes nothing. What a writer that
was killed left half done is never pointed to, and removed by the next one.
"""

from trtbuild.repository.record import pin_to_repository, provide_repository, repository_path, served_name_of
from trtbuild.repository.render import (
    TEMPLATES,
    Origin,
    ServedModel,
    quote_pbtxt,
    render_directory,
    render_repository,
)
from trtbuild.repository.write import unwritable, write_repository

__all__ = [
    "TEMPLATES",
    "Origin",
    "ServedModel",
    "pin_to_repository",
    "provide_repository",
    "quote_pbtxt",
    "render_directory",
    "render_repository",
    "repository_path",
    "served_name_of",
    "unwritable",
    "write_repository",
]
