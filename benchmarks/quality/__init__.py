"""The quality of zone aging, measured on faces that no training saw."""
