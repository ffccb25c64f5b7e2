"""Backends run the graphs of a bundle: `load_engine` gives an `Engine`, whatever runs it underneath."""

from agesdk.backends.base import BACKENDS, Engine, Tensor, load_engine, run_batched

__all__ = ["BACKENDS", "Engine", "Tensor", "load_engine", "run_batched"]
