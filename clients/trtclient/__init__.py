"""Clients of a model served by Triton: talk to it, load it honestly, run a batch through it."""
