"""The engine store: what is found, what is explained, what is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support import TESTS
from support.build_doubles import any_report

from samedge.engines.cuda.memory import Gpu
from samedge.engines.tensorrt.api import Flavour
from samedge.engines.tensorrt.build.options import BuildOptions, BuildReport
from samedge.engines.tensorrt.store.key import EngineKey, graph_digest, make_key
from samedge.engines.tensorrt.store.sidecar import read_sidecar, sidecar_path
from samedge.engines.tensorrt.store.store import EngineStore
from samedge.errors import EngineError, StorageError
from samedge.options import AxisRange
from samedge.storage.files import CACHE_VARIABLE

GPU = Gpu(0, "Orin", "8.7", 16, 8 << 30, integrated=True)


def flavour(name: str = "tensorrt", version: str = "10.3.0.30") -> Flavour:
    return cast("Flavour", SimpleNamespace(name=name, version=version))


def key(graph: str = "a" * 64, **options: Any) -> EngineKey:
    return make_key(graph, BuildOptions(**options), flavour(), GPU, axes=("batch", "prompts"))


def writes(data: bytes) -> Callable[[Path], BuildReport]:
    def build(path: Path) -> BuildReport:
        path.write_bytes(data)
        return any_report(data)

    return build


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def test_the_store_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert EngineStore().folder == tmp_path / "engines"
    assert EngineStore().find(key()) is None
    assert EngineStore().entries() == []
    assert not (tmp_path / "engines").exists()


def test_an_engine_is_built_once_and_found_with_its_report(store: EngineStore) -> None:
    built = store.add(key(), writes(b"raw plan"), notes={"rung": "fp16"})
    assert built.plan.read_bytes() == b"raw plan"  # raw: trtexec can load it
    assert built.plan.suffix == ".engine"
    assert built.sidecar.report == any_report(b"raw plan")
    assert built.sidecar.notes == {"rung": "fp16"}

    def never(_path: Path) -> BuildReport:
        raise AssertionError

    again = store.add(key(), never)
    assert again.plan == built.plan
    assert store.find(key()) is not None
    assert store.find(key(precision="fp16")) is None
    assert [entry.plan for entry in store.entries()] == [built.plan]


def test_notes_can_be_added_later(store: EngineStore) -> None:
    entry = store.annotate(store.add(key(), writes(b"plan"), notes={"a": 1}), {"b": 2})
    assert entry.sidecar.notes == {"a": 1, "b": 2}
    found = store.find(key())
    assert found is not None
    assert found.sidecar == entry.sidecar


def test_a_build_that_fails_leaves_nothing(store: EngineStore) -> None:
    def build(path: Path) -> BuildReport:
        path.write_bytes(b"half")
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        store.add(key(), build)
    with pytest.raises(EngineError, match="empty plan"):
        store.add(key(), writes(b""))
    assert [path.name for path in store.folder.iterdir()] == ["building.lock"]


@pytest.mark.parametrize("damage", [b"", b"plam", b"plan and more"])
def test_a_plan_that_was_changed_is_never_returned(store: EngineStore, damage: bytes) -> None:
    entry = store.add(key(), writes(b"plan"))
    entry.plan.write_bytes(damage)
    assert store.find(key()) is None
    assert not entry.plan.exists()
    assert store.add(key(), writes(b"plan")).plan.read_bytes() == b"plan"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"schema": 99}', b"\xff"])
def test_a_damaged_sidecar_is_as_good_as_none(store: EngineStore, damage: bytes) -> None:
    entry = store.add(key(), writes(b"plan"))
    sidecar_path(entry.plan).write_bytes(damage)
    assert store.find(key()) is None
    with pytest.raises(EngineError) as caught:
        read_sidecar(entry.plan)
    assert caught.value.cure == "Build the engine again"


def test_why_names_each_part_that_differs(store: EngineStore) -> None:
    assert store.why(key()) == ["the store is empty"]
    store.add(key(), writes(b"plan"))
    store.add(key("b" * 64, precision="fp16"), writes(b"other"))
    assert store.why(key()) == []
    wanted = replace(
        key(profiles={"prompts": AxisRange(1, 8, 32)}, optimisation_level=5), version="10.13.0.35", gpu="Thor"
    )
    assert store.why(wanted) == [
        "profiles: prompts is 1/8/32 here and 1/16/64 there",
        "settings: optimisation_level is 5 here and None there",
        "version is 10.13.0.35 here and 10.3.0.30 there",
        "gpu is Thor here and Orin there",
    ]
    assert store.why(key("c" * 64))[0].startswith("graph sha256 is cccc")


def test_keys_depend_on_what_matters_only() -> None:
    assert key().digest() == key(workspace_share=0.1, check_memory=False).digest()
    assert key().digest() == key(profiles={"points": AxisRange(2, 2, 2)}).digest()  # no axis of this graph
    assert key().digest() != key(profiles={"prompts": AxisRange(1, 1, 1)}).digest()
    on_rtx = make_key("a" * 64, BuildOptions(targets=("8.6",)), flavour("tensorrt-rtx"), GPU)
    assert on_rtx == make_key("a" * 64, BuildOptions(targets=("sm_86",)), flavour("tensorrt-rtx"), None)
    assert EngineKey.from_json(json.loads(json.dumps(on_rtx.to_json()))) == on_rtx


def test_a_graph_digest_covers_its_weights(tmp_path: Path) -> None:
    graph, weights = tmp_path / "g.onnx", tmp_path / "g.onnx.data"
    graph.write_bytes(b"g")
    weights.write_bytes(b"w")
    both = graph_digest(graph, weights)
    assert both != graph_digest(graph)
    weights.write_bytes(b"v")
    assert graph_digest(graph, weights) != both


@pytest.mark.parametrize(
    ("change", "here", "gpu", "reason"),
    [
        ({}, flavour(), GPU, None),
        ({}, flavour("tensorrt-rtx"), GPU, "built for tensorrt, but this is tensorrt-rtx"),
        ({}, flavour(version="10.3.0.31"), GPU, "built by version 10.3.0.30"),
        ({"version_compatible": True}, flavour(version="10.13.0.1"), GPU, None),
        ({"version_compatible": True}, flavour(version="10.2.0.1"), GPU, "built by version"),
        ({"version_compatible": True}, flavour(version="11.0.0.1"), GPU, "built by version"),
        ({}, flavour(), replace(GPU, multiprocessors=8), "built on Orin"),
        ({}, flavour(), replace(GPU, compute_capability="8.6"), "this is Orin"),
        (
            {"hardware_compatibility": "same_compute_capability"},
            flavour(),
            replace(GPU, name="Orin Nano", multiprocessors=8),
            None,
        ),
        ({"hardware_compatibility": "ampere_plus"}, flavour(), replace(GPU, compute_capability="12.0"), None),
        ({"hardware_compatibility": "ampere_plus"}, flavour(), replace(GPU, compute_capability="7.5"), "built on"),
        ({"targets": ("8.6", "12.0")}, flavour(), replace(GPU, compute_capability="12.0"), None),
        ({"targets": ("8.6", "12.0")}, flavour(), GPU, "built for sm86, sm120, but this GPU is sm87"),
    ],
)
def test_an_engine_says_why_it_must_not_be_opened(
    change: dict[str, Any], here: Flavour, gpu: Gpu, reason: str | None
) -> None:
    obstacles = key(**change).obstacles(here, gpu)
    assert len(obstacles) == (reason is not None)
    if reason is not None:
        assert reason in obstacles[0]


def test_an_engine_that_is_known_to_compute_zeros_is_refused() -> None:
    """Built without a GPU and for none by name, so that nobody knew that it would come to Turing."""
    turing, ampere = replace(GPU, compute_capability="7.5"), replace(GPU, compute_capability="8.6")
    rtx = flavour("tensorrt-rtx")
    single = make_key("a" * 64, BuildOptions(), rtx, None, axes={"batch"})
    (why,) = single.obstacles(rtx, turing)
    assert "zeros in fp32 with free axes" in why
    assert single.obstacles(rtx, ampere) == []
    assert make_key("a" * 64, BuildOptions(precision="fp16"), rtx, None, axes={"batch"}).obstacles(rtx, turing) == []
    assert make_key("a" * 64, BuildOptions(), rtx, None, axes=()).obstacles(rtx, turing) == []


def test_an_engine_of_another_system_is_refused() -> None:
    assert "aarch64" in replace(key(), machine="aarch64").obstacles(flavour(), GPU)[0]


def test_the_engines_used_longest_ago_go_first(tmp_path: Path) -> None:
    store = EngineStore(tmp_path, limit=25)
    entries = [store.add(key(name * 64), writes(name.encode() * 10)) for name in "ab"]
    for age, entry in zip((200, 100), entries, strict=True):
        os.utime(sidecar_path(entry.plan), (time.time() - age,) * 2)
    assert store.find(key("a" * 64)) is not None  # now b is the one used longest ago
    compiled = entries[1].plan.with_name(entries[1].plan.name + ".sm86.cache")
    compiled.write_bytes(b"made at load")
    store.add(key("c" * 64), writes(b"c" * 10))
    assert not compiled.exists()
    assert [entry.key.graph_sha256[0] for entry in store.entries()] == ["c", "a"]
    huge = store.add(key("d" * 64), writes(b"d" * 99))
    assert [entry.plan for entry in store.entries()] == [huge.plan]
    assert store.collect(0) == [huge.plan]
    assert store.entries() == []


def test_abandoned_files_go_after_a_day(store: EngineStore) -> None:
    entry = store.add(key(), writes(b"plan"))
    left = [store.folder / "without-sidecar.engine", store.folder / ".tmp-half-1-abc"]
    for path in left:
        path.write_bytes(b"x")
    assert store.collect() == []
    for path in [*left, entry.plan]:
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert sorted(store.collect()) == sorted(left)
    assert store.find(key()) is not None


def test_two_processes_that_want_one_engine_build_it_once(tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from support.build_doubles import any_report\n"
        "from samedge.engines.tensorrt.store.key import EngineKey\n"
        "from samedge.engines.tensorrt.store.store import EngineStore\n"
        "import json\n"
        "def build(path):\n"
        "    print('built', flush=True); time.sleep(0.5); path.write_bytes(b'plan'); return any_report(b'plan')\n"
        "key = EngineKey.from_json(json.loads(sys.argv[3]))\n"
        "print(EngineStore(Path(sys.argv[1])).add(key, build).plan.read_bytes())\n"
    )
    arguments = [str(tmp_path), str(TESTS), json.dumps(key().to_json())]
    both = [
        subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [child.communicate(timeout=60)[0].split() for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert sorted(answers) == [["b'plan'"], ["built", "b'plan'"]]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        EngineStore(tmp_path / "file" / "engines").add(key(), writes(b"plan"))
