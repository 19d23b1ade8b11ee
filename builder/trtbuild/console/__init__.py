"""What trtbuild and trtclient show a person: the log, standard streams, errors, tables, and the frame of a command."""
