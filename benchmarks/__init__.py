"""Measures what a session adds to a request."""
