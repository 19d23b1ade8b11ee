"""Load, honestly: what is due when is decided before the first request, and latency counts from then."""
