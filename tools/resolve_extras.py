"""Ask uv which packages each extra brings on each platform, without installing any, and print the answers as a table.

python tools/resolve_extras.py > docs/measured/extras.md
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import uv

ROOT = Path(__file__).parent.parent
EXTRAS = ("cpu", "cuda", "openvino", "trt", "trt-cu12", "rtx", "rtx-cu12", "jetson", "export")
PLATFORMS = (
    *((f"3.{minor}", "x86_64-manylinux_2_28") for minor in range(10, 14)),
    ("3.10", "aarch64-manylinux_2_35"),  # JetPack 6
    ("3.12", "aarch64-manylinux_2_38"),  # JetPack 7
)
SHOWN = re.compile(
    r"^(cuda-bindings|onnxruntime(?:-gpu)?|openvino|tensorrt(?:-rtx-cu1\d)?|tensorrt-cu1\d|torch)==(\S+)$"
)


def answer(extra: str, python: str, platform: str) -> str:
    """Return the versions that an extra brings, or why there are none."""
    done = subprocess.run(  # noqa: S603 - fixed words
        [
            uv.find_uv_bin(), "pip", "compile", "pyproject.toml", "--extra", extra, "--python-version", python,
            "--python-platform", platform, "--no-header", "--no-annotate", "--quiet",
        ],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        found = [match for line in done.stdout.splitlines() if (match := SHOWN.match(line))]
        return ", ".join(f"{match[1]} {match[2]}" for match in found)
    text = " ".join(done.stderr.split())
    lacking = re.search(r"we only found wheels for `([^`]+)`|Wheels are available for `([^`]+)`", text)
    if lacking:
        return f"no: no wheel of {lacking[1] or lacking[2]}"
    return "no: TensorRT has no wheel" if "tensorrt" in text else f"no: {text[-100:]}"


def main() -> None:
    """Print the table."""
    columns = [f"{platform.partition('-')[0]}, Python {python}" for python, platform in PLATFORMS]
    lines = [
        "# What each extra brings", "",
        f"Resolved by uv on {date.today().isoformat()}, without installing: `python tools/resolve_extras.py`.", "",
        f"| extra | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}",
    ]  # fmt: skip
    for extra in EXTRAS:
        cells = [answer(extra, *platform) for platform in PLATFORMS]
        lines.append(f"| `{extra}` | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
