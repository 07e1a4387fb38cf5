"""What a machine does to a run: full disks, read-only targets, signals, clocks. With real Ray, and the fake engine."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The memory that Ray's own monitor counts, which may be a control group's: no public function tells it.
from ray._private.utils import get_system_memory, get_used_memory

from indexer.cluster import pool
from indexer.errors import IndexerError
from indexer.storage import records
from indexer.storage.control import ControlStore
from tests.support import drive
from tests.support.fakes import POISON, poison_token, published_rows, quarantine, run, run_here, settings, words, write
from tests.support.rays import end_ray, is_at_work, join, lose, ray_head, ray_processes

ROOT = Path(__file__).parents[2]


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A file system in memory."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # noqa: S607


def _line(ended: subprocess.CompletedProcess[str]) -> str:
    """The line that says why a command failed."""
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    documents = words(4000)
    write(tmp_path / "corpus" / "a.parquet", documents)
    with mounted(tmp_path / "disk", "size=20m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(14 << 20))
        given = {"index": {"uri": str(disk / "index")}}
        full = drive.ended(tmp_path, given)
        assert full.returncode == 1
        assert _line(full).startswith("error: ")
        assert "No space left" in _line(full)
        filler.unlink()
        done = drive.ended(tmp_path, given)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["indexed"] == 4000
        expected = sorted((name, 0) for name, _ in documents)
        assert [published_rows(settings(tmp_path, **given), width) for width in (384, 96)] == [expected] * 2


def test_a_read_only_target_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(10))
    with mounted(tmp_path / "disk", "ro") as disk, pytest.raises(IndexerError, match=r"^[^\n]*Read-only[^\n]*$"):
        run_here(settings(tmp_path, index={"uri": str(disk / "index")}))


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of its own for the Ray that a run starts; short, because sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield folder
    end_ray(folder)


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], pytest.param([signal.SIGINT, signal.SIGINT], marks=pytest.mark.slow)]
)
def test_one_signal_finishes_what_is_in_hand_and_two_do_not_wait(
    tmp_path: Path, signals: list[int], ray_folder: str
) -> None:
    documents = words(200)
    write(tmp_path / "corpus" / "a.parquet", documents)
    # Some 20 shards of half a second each.
    given = {"run": {"shard_mb": 0.0024, "progress": "none"}, "cluster": {"address": "local", "workers": 1}}
    process = drive.begun(tmp_path, given)
    store = ControlStore(settings(tmp_path).index.uri, "docs")
    _wait(lambda: len(store.receipts(1).ids()) > 2)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    _wait(lambda: not ray_processes(ray_folder))
    assert said.splitlines()[-1].endswith(" INFO interrupted; run the same command again to resume")
    assert "shards in hand are finished first" in said
    assert time.monotonic() - began < 20
    staged = len(store.receipts(1).ids())
    assert 2 < staged < 20
    assert run_here(settings(tmp_path, **given))["resumed_shards"] == staged
    assert published_rows(settings(tmp_path), 96) == sorted((name, 0) for name, _ in documents)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_to_the_whole_group_finishes_what_is_in_hand(tmp_path: Path, times: int) -> None:
    """As systemd sends it; `timeout` sends it twice, to its child and to the group."""
    write(tmp_path / "corpus" / "a.parquet", words(200))
    given = {"run": {"shard_mb": 0.0024, "progress": "none"}, "cluster": {"address": "local", "workers": 1}}
    process = drive.begun(tmp_path, given)
    store = ControlStore(settings(tmp_path).index.uri, "docs")
    _wait(lambda: len(store.receipts(1).ids()) > 2)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "shards in hand are finished first" in said
    assert "worker died" not in said
    assert said.splitlines()[-1].endswith(" INFO interrupted; run the same command again to resume")
    staged = len(store.receipts(1).ids())
    assert 2 < staged < 20
    assert json.loads(drive.ended(tmp_path, given).stdout)["resumed_shards"] == staged


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_another_machine_does_the_work_of_a_lost_one(tmp_path: Path) -> None:
    documents = words(300)  # more work than the first machine does before the second has started
    write(tmp_path / "corpus" / "a.parquet", documents)
    with ray_head(cores=1) as head:
        machine = join(head, cores=1)
        given = {"run": {"shard_mb": 0.0024, "progress": "none"}, "cluster": {"address": head.address, "workers": 2}}
        process = drive.begun(tmp_path, given)
        _wait(lambda: is_at_work(machine))
        lose(machine)
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    summary = json.loads(printed.splitlines()[-1])
    assert (summary["indexed"], summary["quarantined"], summary["restarts"]) == (300, 0, 1)
    assert re.search(" WARNING worker died: .*; another one is started", said)
    assert published_rows(settings(tmp_path), 96) == sorted((name, 0) for name, _ in documents)


@pytest.mark.slow
def test_running_out_of_memory_is_the_reason_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "corpus" / "a.parquet", [*words(63), ("greedy", POISON)])
    used = (get_used_memory() + (2 << 30)) / get_system_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{used:.3f}")
    given = {"cluster": {"address": "local", "workers": 1}}
    ended = drive.ended(tmp_path, given, swells_on=poison_token())
    assert ended.returncode == 0, ended.stderr
    assert "node running low on memory" in ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["indexed"] == 63
    assert quarantine(settings(tmp_path)) == [("greedy", "poison")]


@pytest.mark.slow
def test_a_run_waits_for_machines_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "DESERTED_SECONDS", 3.0)
    write(tmp_path / "corpus" / "a.parquet", words(200))
    store = ControlStore(settings(tmp_path).index.uri, "docs")

    def lose_at_work(machine: int) -> None:
        _wait(lambda: len(store.receipts(1).ids()) > 4)
        lose(machine)

    with ray_head(cores=0) as head:
        given = {"run": {"shard_mb": 0.0024, "progress": "none"}, "cluster": {"address": head.address, "workers": 1}}
        loser = threading.Thread(target=lose_at_work, args=(join(head, cores=1),))
        loser.start()
        with pytest.raises(IndexerError, match="the machines of all workers are lost"):
            run(settings(tmp_path, **given), seconds_per_token=0.003)
        loser.join()
        staged = len(store.receipts(1).ids())
        join(head, cores=1)
        summary = run(settings(tmp_path, **given))
    assert (summary["indexed"], summary["resumed_shards"]) == (200, staged)


def test_clock_steps_of_years_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path)
    path = tmp_path / "corpus" / "a.parquet"
    for night, year in enumerate((2026, 1971, 2150, 1999), 1):
        write(path, words(50 + night))
        moment = (year - 1970) * 365 * 86400
        os.utime(path, (moment, moment))
        monkeypatch.setattr(records, "now", lambda year=year: f"{year}-01-01T00:00:00+00:00")
        summary = run_here(given)
        assert (summary["epoch"], summary["documents"]) == (night, 50 + night)
        assert len(published_rows(given, 96)) == 50 + night
    assert quarantine(given) == []
