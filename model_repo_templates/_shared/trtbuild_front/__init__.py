"""Text in, text out in front of a token engine; copied into every Python model of a repository that needs a part of it.

Nothing here imports ``trtbuild``: a repository does not depend on where the tool that wrote it is installed. Needed
beside the standard library: numpy, tokenizers, jinja2.
"""
