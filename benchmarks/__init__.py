"""Benchmarks: each figure beside its floor or its rival, measured in turn in one run."""
