"""``python -m trtclient``."""

from trtclient.cli import main

main()
