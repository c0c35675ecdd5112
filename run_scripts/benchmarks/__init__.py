"""What `benchmark.py` measures with: a file a group of benchmarks, and what they share."""
