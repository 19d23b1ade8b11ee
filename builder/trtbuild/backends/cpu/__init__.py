"""The cpu backend: OpenVINO engines for machines without a GPU."""
