"""What clipping costs beside its peers: `python -m benchmarks`."""
