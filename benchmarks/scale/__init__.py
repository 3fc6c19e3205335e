"""Measures what many sessions, processes and WebSockets cost."""
