"""A peer that knows the protocol and nothing else: the n-th run of a stage takes n ms an image, by what it says.

    python fake_peer.py KIND [LOG]

KIND: "good"; "slow" (ten times as long); "together" (set_image in place of preprocess and encode); or what goes wrong:
"missing", "old", "refuses", "noise", "dies", "fails", "silent", "other". LOG gets a line for each stage that is run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STAGES = {
    "preprocess": "nothing", "encode": "nothing at all", "prompt": "a click", "boxes": "32 clicks",
    "everything": "all clicks",
}  # fmt: skip


class Peer:
    def __init__(self, kind: str, log: Path | None) -> None:
        self.kind, self.log = kind, log
        self.calls: dict[str, int] = {}
        self.asked: dict[str, Any] = {}

    def hello(self) -> dict[str, Any]:
        if self.kind == "missing":
            return {"protocol": 1, "name": "fake", "can": False, "reason": "fake is not installed"}
        return {"protocol": 2 if self.kind == "old" else 1, "name": "fake", "version": "1.2", "more": "is ignored"}

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked = asked
        if self.kind == "refuses":
            return {"error": "it knows no such model"}
        if self.kind == "dies":
            sys.stderr.write("first line\nout of memory\n")
            sys.exit(9)
        stages = dict(STAGES)
        without = {}
        if self.kind == "together":
            stages = {"set_image": "both", "prompt": "a click"}
            without = {"encode": "it is part of set_image"}
        return {
            "stages": stages,
            "without": without,
            "image_stages": [] if self.kind == "together" else ["preprocess", "encode", "prompt"],
            "backend": "nothing",
            "device": "cpu",
            "details": {"threads": str(asked["threads"]), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")},
        }

    def run(self, stage: str) -> dict[str, Any]:
        name = self.asked["name"]
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{name} {stage}\n")
        if self.kind == "fails" and stage == "prompt":
            return {"error": "it cannot do this"}
        if self.kind == "silent":
            time.sleep(60)
        self.calls[stage] = self.calls.get(stage, 0) + 1
        wall = 0.001 * self.calls[stage] * len(self.asked["images"]) * (10 if self.kind == "slow" else 1)
        peak = 1_000_000 * sum(self.calls.values())
        return {
            "wall": wall,
            "cpu": wall / 2,
            "peak": peak,
            "device": 100 * sum(self.calls.values()),
            "figures": {"masks": len(self.asked["images"])},
        }


def main() -> None:
    peer = Peer(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = {}
        if request["do"] == "hello":
            answer = peer.hello()
        elif request["do"] == "open":
            answer = peer.open(request)
        elif request["do"] == "run":
            answer = peer.run(request["stage"])
        if peer.kind == "noise" and request["do"] == "open":
            sys.stdout.write("Loading the model, please wait\n")
        elif peer.kind == "other" and request["do"] == "open":
            answer = {"stages": 5}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if request["do"] == "close":
            return


if __name__ == "__main__":
    main()
