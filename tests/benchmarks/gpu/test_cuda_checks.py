"""The checks of the memory layer pass on the fake GPU, leave nothing behind, and notice what is wrong."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from samedge.benchmarks.gpu.cuda_checks import CHECKS, CudaCheck
from samedge.errors import EngineError
from samedge.testing.cuda import FakeCuda


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("captures", [True, False])
def test_each_passes_and_frees_everything(check: CudaCheck, captures: bool) -> None:
    cuda = FakeCuda(captures=captures)
    check.run(cuda)
    gc.collect()
    assert cuda.leaks() == []
    cuda.close()


class Forgetful(FakeCuda):
    """A GPU that does not copy on the device."""

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self.run_kernel("copy_across", stream, lambda: None, reads=[(source, nbytes)], writes=[(target, nbytes)])


class Wasteful(FakeCuda):
    """A GPU with odd addresses."""

    def allocate(self, nbytes: int) -> int:
        self._next_address += 8
        return super().allocate(nbytes)


class Blind(FakeCuda):
    """A GPU that cannot capture and does not say so."""

    def capture(self, stream: int, work: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (Forgetful(), "copies", "numbers are wrong"),
        (Forgetful(), "arrays in a pool", "numbers are wrong"),
        (Wasteful(), "copies", "not multiples of 256"),
        (Blind(), "graphs", "could not be captured"),
        (Forgetful(), "threads", "numbers are wrong"),
    ],
)
def test_what_is_wrong_is_noticed(cuda: FakeCuda, name: str, message: str) -> None:
    (check,) = (check for check in CHECKS if check.name == name)
    with pytest.raises(EngineError, match=message):
        check.run(cuda)
