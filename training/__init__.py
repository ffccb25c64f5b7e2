"""Training of zone-aging models: data preparation, the small models, the LDLA trainer.

Run from the checkout: ``python -m training --help``. Everything here needs torch; nothing of it is in the
wheel.
"""
