"""The model as transformers would compute it, decided once: which files, which keys of config.json, which tensors.

Fetching, every backend's plan and the cpu engine's graph ask here instead of deciding each for itself. The order is
transformers'; what is said twice differently is an error that names both places. Nothing is written or downloaded.
Importing this package is cheap.
"""
