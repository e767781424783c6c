"""What code written for results on a GPU calls on them, for results that are numpy arrays already."""

from __future__ import annotations

from typing_extensions import Self


class HostArrays:
    """Base of what holds numpy arrays: each way to move or convert them returns the object itself, unchanged."""

    def cpu(self) -> Self:
        """Returns itself: results are numpy arrays."""
        return self

    def numpy(self) -> Self:
        """Returns itself: results are numpy arrays."""
        return self

    def cuda(self) -> Self:
        """Returns itself: results are numpy arrays and stay where they are."""
        return self

    def to(self, *_: object) -> Self:
        """Returns itself: results are numpy arrays and stay where they are."""
        return self
