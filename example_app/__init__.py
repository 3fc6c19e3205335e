"""A small shop, to show sessions at work: ``python -m example_app``."""
