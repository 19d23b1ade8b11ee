"""What the recording rules cost Prometheus at a thousand pods, next to the origin's, in one run."""
