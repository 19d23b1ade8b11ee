"""Serve a model repository: find a server, check the machine, start it, ask it whether it works, drain it."""
