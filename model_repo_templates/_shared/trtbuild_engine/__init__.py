"""The engine model of the backends whose engine is a Python library: a Triton model in front of an engine process.

Copied into the version directory of such a model, beside the ``engine_worker.py`` of its backend. Two processes import
it: the model's (``model``, ``requests``, ``responses``, ``supervision``, ``gauges``), which has numpy, and the engine's
(``progress``, ``worker``), which has the engine's packages. Both speak ``wire``. Nothing here imports ``trtbuild``.
"""
