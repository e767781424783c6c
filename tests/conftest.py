"""Settings and fixtures that all tests share."""

from __future__ import annotations

from hypothesis import settings

# No deadlines: how long an example takes says nothing on a shared machine. No example database: runs are reproducible.
settings.register_profile("samedge", deadline=None, database=None, derandomize=True)
settings.load_profile("samedge")
