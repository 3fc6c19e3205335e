"""Formats times for people."""

from __future__ import annotations


def ago(seconds: float) -> str:
    """Returns how long ago something was, as a text for people."""
    return f"{duration(seconds)} ago" if seconds >= 60 else "just now"


def duration(seconds: float) -> str:
    """Returns a duration as a text for people."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [
        f"{number} {unit}" + "s" * (number != 1)
        for number, unit in [
            (days, "day"),
            (hour, "hour"),
            (minute, "minute"),
            (second, "second"),
        ]
        if number
    ]
    return " ".join(parts[:2]) or "0 seconds"
