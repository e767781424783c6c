"""Environments of their own for other tools and for other versions of dependencies, which would clash with the suite's.

They are made with uv on first use and kept in ``build/environments``. Where one cannot be made, its tests are skipped,
and the reason is printed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "environments"


@dataclass(frozen=True)
class Environment:
    """An environment; `run` starts its Python with this package's sources on the path."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *arguments: str | Path, timeout: float = 600, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python with arguments; the output is text, and a failure is not an error."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "VIRTUAL"))}
        own |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | variables
        return subprocess.run(
            [self.python, *arguments], env=own, cwd=ROOT, capture_output=True, text=True, timeout=timeout
        )


def environment(
    name: str, *requirements: str, options: tuple[str, ...] = (), files: tuple[Path, ...] = ()
) -> Environment:
    """Return an environment with these packages, made if there is none yet; skip the test if it cannot be made.

    Args:
        name: Of its folder.
        requirements: As for pip.
        options: For uv, such as ``--resolution lowest-direct``.
        files: Of requirements, such as pyproject.toml.
    """
    pytest.importorskip("uv", reason="uv is not installed: pip install uv")
    import uv

    told = [*options, *requirements, *(argument for file in files for argument in ("--requirements", str(file)))]
    contents = [file.read_text() for file in files]
    key = hashlib.sha256(repr([sys.version_info[:2], told, contents]).encode()).hexdigest()[:12]
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = Environment(FOLDER / f"{name}-{key}")
    with FileLock(FOLDER / f"{name}.lock"):
        complete = made.folder / ".complete"
        if complete.exists():
            return made
        program = uv.find_uv_bin()
        for step in (
            ["venv", "--quiet", "--clear", "--python", sys.executable, str(made.folder)],
            ["pip", "install", "--quiet", "--python", str(made.python), *told],
        ):
            done = subprocess.run([program, *step], capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                pytest.skip(f"the environment {name!r} cannot be made here: {done.stderr.strip()[-500:]}")
        complete.touch()
    return made
