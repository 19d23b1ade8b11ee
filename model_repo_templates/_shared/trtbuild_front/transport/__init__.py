"""The way to the engine model: the server's gRPC endpoint, HTTP/2 and KServe's two messages. It knows no requests."""
