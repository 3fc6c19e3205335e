"""The peers for Python: one program for each framework or library.

Each runs in an environment of its own, in which our dependencies are not installed.
"""
