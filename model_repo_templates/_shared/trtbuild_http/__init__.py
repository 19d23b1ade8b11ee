"""HTTP/1.1 for models that answer clients themselves: server, events, keys, limits, and one port for all models.

Copied into every Python model of a repository that imports it. Nothing here imports ``trtbuild`` or knows what a model
computes: a model offers a :class:`trtbuild_http.gateway.ModelApi` and gets an :class:`trtbuild_http.exchange.Exchange`
per request. Needed beside the standard library: httptools; uvloop and orjson are used where they are installed.
"""
