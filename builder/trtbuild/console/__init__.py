"""What trtbuild and trtclient show a person: standard streams, tables, commands imported when they are used."""
