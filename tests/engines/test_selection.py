"""Which backend is chosen, when that is measured, and when it is known already."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.timed_backends import Clock, TimedBackend, install

from samedge.engines import selection
from samedge.engines.protocol import Engine
from samedge.engines.selection import (
    AUTO_VARIABLE,
    Decision,
    choose,
    decide,
    decisions_folder,
    find_candidates,
    kept_decisions,
    open_decided,
)
from samedge.engines.trials import Trial
from samedge.errors import BackendUnavailableError, DeviceUnavailableError, EngineError, UsageError


def open_fastest(graph: Path, device: str | None = None, threads: int | None = None) -> Engine:
    """Decides and opens, as loading does."""
    return open_decided(graph, decide(graph, device=device, threads=threads), device=device, threads=threads)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAMEDGE_CACHE", str(folder))
    monkeypatch.delenv(AUTO_VARIABLE)
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"anything")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pair(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[TimedBackend, TimedBackend]:
    """The second is twice as fast."""
    backends = TimedBackend("a", clock, {"cpu": [0.2]}), TimedBackend("b", clock, {"cpu": [0.1]})
    install(monkeypatch, *backends)
    return backends


def decided(graph: Path, clock: Clock, **options: object) -> Decision:
    decision = decide(graph, clock=clock, **options)  # type: ignore[arg-type]
    assert decision is not None
    return decision


class TestDecide:
    def test_the_fastest_is_measured_once_and_kept(
        self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend]
    ) -> None:
        first = decided(graph, clock)
        assert (first.backend, first.device, first.graph) == ("b", "cpu", "graph.onnx")
        assert first.reason == "b on cpu: 100 ms, 2.00 times as fast as a on cpu"
        assert [trial.milliseconds for trial in first.trials] == [200.0, 100.0]
        assert first.seconds == pytest.approx(1.2)
        assert first.created.endswith("+00:00")
        assert decided(graph, clock) == first
        assert kept_decisions() == (first,)
        assert [len(backend.opened) for backend in pair] == [1, 1]

    @pytest.mark.parametrize("change", ["graph", "threads", "device", "sizes", "version", "machine"])
    def test_whatever_it_depends_on_is_measured_again(
        self,
        change: str,
        graph: Path,
        clock: Clock,
        pair: tuple[TimedBackend, TimedBackend],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        decided(graph, clock)
        options: dict[str, object] = {}
        if change == "graph":
            graph.write_bytes(b"something else")
        elif change == "version":
            pair[1].version = "2.0"
        elif change == "machine":
            monkeypatch.setattr(selection, "machine_facts", lambda: {"processor": "another"})
        else:
            options = {change: {"threads": 7, "device": "cpu", "sizes": {"height": 2}}[change]}
        decided(graph, clock, **options)
        assert [len(backend.opened) for backend in pair] == [2, 2]
        assert len(kept_decisions()) == 2

    @pytest.mark.parametrize("damage", [b"", b"[]", b'{"schema": 1}', b'{"schema": 99}', b"\xff", b"[" * 100_000])
    def test_a_record_that_cannot_be_read_is_measured_again(
        self, damage: bytes, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend]
    ) -> None:
        decided(graph, clock)
        (path,) = decisions_folder().iterdir()
        path.write_bytes(damage)
        assert kept_decisions() == ()
        again = decided(graph, clock)
        assert len(pair[0].opened) == 2
        assert kept_decisions() == (again,)

    def test_a_record_of_another_question_is_not_believed(
        self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend]
    ) -> None:
        decision = decided(graph, clock)
        (path,) = decisions_folder().iterdir()
        question = msgspec.structs.replace(decision.question, threads=99)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(decision, question=question)))
        decided(graph, clock)
        assert len(pair[0].opened) == 2

    def test_a_cache_that_cannot_be_written_to_costs_time_only(
        self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend], cache: Path
    ) -> None:
        cache.write_text("a file is in the way")
        assert decided(graph, clock).backend == "b"
        assert decided(graph, clock).backend == "b"
        assert len(pair[0].opened) == 2

    def test_the_digest_is_taken_as_given(
        self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend]
    ) -> None:
        assert decided(graph, clock, sha256="0" * 64).question.graph_sha256 == "0" * 64
        assert pair[0].opened

    @pytest.mark.usefixtures("pair")
    @pytest.mark.parametrize("value", ["first", " FIRST "])
    def test_measuring_can_be_turned_off(self, value: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(AUTO_VARIABLE, value)
        assert decide(graph) is None
        assert open_fastest(graph).backend == "a"
        assert kept_decisions() == ()

    def test_the_time_can_be_set(
        self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(AUTO_VARIABLE, "0.5")
        decision = decided(graph, clock)
        assert [trial.runs for trial in decision.trials] == [1, 3]
        assert decision.reason == "b on cpu: 100 ms for the first run, 2.00 times as fast as a on cpu"
        assert pair[0].opened

    @pytest.mark.usefixtures("pair")
    @pytest.mark.parametrize("value", ["fast", "0", "-1", "nan", "inf"])
    def test_a_setting_that_means_nothing_is_an_error(
        self, value: str, graph: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(AUTO_VARIABLE, value)
        with pytest.raises(UsageError, match=rf"invalid SAMEDGE_AUTO '{value}'\. Set it to first"):
            decide(graph)

    def test_where_one_backend_works_nothing_is_measured(
        self, graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = TimedBackend("a", clock, {"cuda": [0.1], "cpu": [0.2]})
        install(monkeypatch, alone, TimedBackend("b", clock, {"cpu": [0.1]}, version=None))
        assert decide(graph, clock=clock) is None
        assert alone.opened == []

    def test_where_none_can_run_it_nothing_is_kept(
        self, graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(monkeypatch, *(TimedBackend(name, clock, {"cpu": [0.1]}, broken="no kernel") for name in "ab"))
        assert decide(graph, clock=clock) is None
        assert kept_decisions() == ()

    @pytest.mark.usefixtures("pair")
    def test_a_missing_file_is_left_to_opening(self, tmp_path: Path) -> None:
        assert decide(tmp_path / "nothing.onnx") is None
        with pytest.raises(EngineError, match="graph file not found"):
            open_fastest(tmp_path / "nothing.onnx")


class TestCandidates:
    def test_every_device_that_is_worth_a_try(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        install(
            monkeypatch,
            TimedBackend("a", clock, {"tensorrt": [1], "cuda": [1], "cpu": [1]}),
            TimedBackend("b", clock, {"gpu.0": [1], "gpu.1": [1], "npu": [1], "cpu": [1]}),
            TimedBackend("c", clock, {"cpu": [1]}, measured=()),
        )
        candidates, versions = find_candidates(".onnx")
        assert [(one.backend, one.device) for one in candidates] == [
            ("a", "cuda"), ("a", "cpu"), ("b", "gpu.0"), ("b", "gpu.1"), ("b", "cpu"),
        ]  # fmt: skip
        assert versions == {"a": "a 1.0", "b": "b 1.0"}
        assert find_candidates(".engine")[0] == []

    @pytest.mark.parametrize(
        ("device", "names"), [("cpu", ["a", "b"]), ("cuda:1", ["a"]), ("GPU.1", ["b"]), ("npu", []), ("abacus", [])]
    )
    def test_a_device_that_was_named_is_the_only_one(
        self, device: str, names: list[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(
            monkeypatch,
            TimedBackend("a", clock, {"cuda": [1], "cpu": [1]}, measured=("cuda", "cpu")),
            TimedBackend("b", clock, {"gpu": [1], "cpu": [1]}, measured=("gpu", "cpu")),
        )
        candidates, _ = find_candidates(".onnx", device)
        assert [(one.backend, one.device) for one in candidates] == [(name, device) for name in names]


class TestOpenFastest:
    def test_opens_what_was_chosen(self, graph: Path, clock: Clock, pair: tuple[TimedBackend, TimedBackend]) -> None:
        decided(graph, clock, threads=2)
        engine = open_fastest(graph, threads=2)
        assert (engine.backend, engine.device) == ("b", "cpu")
        assert (pair[1].opened[-1].device, pair[1].opened[-1].threads) == ("cpu", 2)

    def test_what_is_gone_since_is_replaced_by_the_table(
        self, graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = TimedBackend("a", clock, {"cpu": [0.2]})
        second = TimedBackend("b", clock, {"gpu": [0.1]}, devices=("gpu",))
        install(monkeypatch, first, second)
        assert decided(graph, clock).device == "gpu"
        second.seconds = {}
        assert open_fastest(graph).backend == "a"

    def test_a_device_that_was_named_stays_an_error(self, graph: Path, pair: tuple[TimedBackend, TimedBackend]) -> None:
        with pytest.raises(DeviceUnavailableError, match="on holiday"):
            open_fastest(graph, device="cuda")
        assert [options.device for backend in pair for options in backend.opened] == ["cuda"] * 4

    @pytest.mark.usefixtures("pair")
    def test_threads_below_one_are_refused(self, graph: Path) -> None:
        with pytest.raises(UsageError, match="invalid number of threads: 0"):
            open_fastest(graph, threads=0)

    def test_no_backend_is_an_error(self, graph: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, TimedBackend("a", clock, {"cpu": [0.1]}, version=None))
        with pytest.raises(BackendUnavailableError, match="no installed backend"):
            open_fastest(graph)


def ran(backend: str, warm: float | None, first: float, **more: object) -> Trial:
    return Trial(backend, "cpu", warm, first, 0.1, 4, usable=True, **more)  # type: ignore[arg-type]


class TestChoose:
    @pytest.mark.parametrize(
        ("trials", "winner", "reason"),
        [
            ([ran("a", 10, 90), ran("b", 20, 30)], "a", "a on cpu: 10 ms, 2.00 times as fast as b on cpu"),
            (
                [ran("a", 104, 1), ran("b", 100, 1)],
                "a",
                "a on cpu: 104 ms, within 5% of b on cpu, which the table ranks",
            ),
            ([ran("a", 106, 1), ran("b", 100, 1)], "b", "b on cpu: 100 ms, 1.06 times as fast as a on cpu"),
            ([ran("a", None, 50), ran("b", 10, 99)], "a", "a on cpu: 50 ms for the first run, 1.98 times as fast as b"),
            ([ran("a", 10, 10), ran("b", None, 99, stopped=True)], "a", "a on cpu: 10 ms, and the others were far"),
            ([ran("a", 10, 10), Trial("b", "cpu", note="x")], "a", "a on cpu: 10 ms, the only candidate"),
            ([Trial("a", "cpu", note="x"), ran("b", None, 9)], "b", "b on cpu: 9 ms for the first run, the only"),
        ],
        ids=["warm runs count", "a tie", "no tie", "first runs", "stopped", "one failed", "preferred failed"],
    )
    def test_the_fastest_wins_with_a_reason(self, trials: list[Trial], winner: str, reason: str) -> None:
        chosen = choose(trials)
        assert chosen is not None
        assert chosen[0].backend == winner
        assert chosen[1].startswith(reason)

    def test_none_that_could_run(self) -> None:
        assert choose([Trial("a", "cpu", note="x")]) is None
        assert choose([Trial("a", "cpu", None, 5.0, 0.1, 1, note="its output 'y' is not finite")]) is None
        assert choose([]) is None
