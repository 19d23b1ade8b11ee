"""Run the command line as ``python -m trtbuild``."""

from trtbuild.cli import main

main()
