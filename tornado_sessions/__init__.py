"""Sessions for Tornado: a visitor's data, kept across requests."""
