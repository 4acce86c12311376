"""Straight-line programs: NumPy calls written down once, and run again without what led to them."""
