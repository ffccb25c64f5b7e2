"""Export of Cradle2Cane's published checkpoints (NeurIPS 2025) into lifespan-aging bundles."""

from .command import Options, export_cradle2cane, register

__all__ = ["Options", "export_cradle2cane", "register"]
