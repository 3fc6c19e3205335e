"""Keeps keys and data of sessions out of the driver's log."""

from __future__ import annotations

import contextvars
import json
import logging

#: True in the context of an operation of ours. Motor passes it on to its threads.
is_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("is_ours", default=False)

# The fields of a logged command that hold documents.
_DOCUMENTS = {"command", "reply", "failure"}


def install_filter() -> None:
    """Filters what both drivers log of their commands. Twice is as good as once."""
    logging.getLogger("pymongo.command").addFilter(_leave_out_documents)


def _leave_out_documents(record: logging.LogRecord) -> bool:
    # At DEBUG the driver logs every command and every reply, as JSON.
    if is_ours.get():
        try:
            fields = json.loads(record.getMessage())
            left_out = dict.fromkeys(fields.keys() & _DOCUMENTS, "left out")
            record.msg, record.args = json.dumps(fields | left_out), ()
        except (ValueError, AttributeError, TypeError):
            return False
    return True
