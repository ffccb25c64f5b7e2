"""Compiling bundles for a GPU, verifying them on a device, and keeping the results: ``python -m engines``.

Not part of the installed runtime. It may import `agesdk`; `agesdk` never imports it.
"""
