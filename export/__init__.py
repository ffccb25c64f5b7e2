"""Export of trained checkpoints into bundles of typed ONNX graphs.

Run from the checkout: ``python -m export --help``. Needs the ``export`` extra; nothing of it is in the wheel.
"""
