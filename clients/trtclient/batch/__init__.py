"""A file of requests through a model: bounded, retried, resumable, in order."""
