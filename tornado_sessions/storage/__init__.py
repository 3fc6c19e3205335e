"""Keeps records: what a backend is, and what backends share."""
