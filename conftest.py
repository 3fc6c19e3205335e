"""What holds for all tests, those of the plugins as well."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    # Some 16,000 tests would be looked through by each garbage collection, and many
    # tests ask for one.
    gc.collect()
    gc.freeze()
