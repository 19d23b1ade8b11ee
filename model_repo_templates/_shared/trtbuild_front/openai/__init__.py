"""OpenAI's API for a model that generates text: requests read, answers and errors in its form, tokens, documentation.

It decides the protocol. How requests are served is decided by ``trtbuild_front.service``, how HTTP is spoken by
``trtbuild_http``.
"""
