"""Benchmarks: what is fast, and what is good, measured by commands anyone can repeat.

Run from the checkout: ``python -m benchmarks --help``. Nothing of it is in the wheel. Networks that only
measure (identity, age) are fetched from package registries into a user cache on first use and are never part
of the repository.
"""
