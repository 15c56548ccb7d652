"""The store: whole lines or none, one writer a cell, resume, and what a full or read-only disk says."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.disk import Refused, StoreError
from harness.store import Answer, Store, canonical, missing, plain_index, predictions_digest

SETTINGS: dict[str, Any] = {
    "model": {"name": "m", "revision": "r1"},
    "method": {"name": "fastv", "fields": {"layer": 4}},
    "keep": 0.25,
    "benchmark": {"name": "B", "digest": "d"},
    "frames": 8,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def test_equal_settings_give_one_id_and_every_change_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reordered = dict(reversed(list(SETTINGS.items())))
    assert store.cell(reordered).id == store.cell(SETTINGS).id
    others = [
        changed(keep=0.5),
        changed(frames=16),
        changed(method={"name": "fastv", "fields": {"layer": 2}}),
        changed(model={"name": "m", "revision": "r2"}),
        changed(benchmark={"name": "B", "digest": "other"}),
    ]
    assert len({store.cell(each).id for each in [SETTINGS, *others]}) == 6


def test_a_changed_method_field_finds_no_old_answer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.cell(SETTINGS).open() as writer:
        writer.append(Answer(1, "A"))
    assert store.cell(SETTINGS).read()[1].prediction == "A"
    assert store.cell(changed(method={"name": "fastv", "fields": {"layer": 2}})).read() == {}


def test_answers_come_back_as_they_were_given(tmp_path: Path) -> None:
    given = [
        Answer(3, "None", None, 144, 36, [144, 36], 0.5, 0.01, 0.02),
        Answer("x_1", '=1+1\n"quoted" \u2028 naïve', None, 144, 36, [36, 36], None, 0.0, 0.5),
        Answer(4, None, "cannot decode a.mp4"),
        Answer(5, ""),
        Answer(6, "A", None, 144, 36, [36, 36], None, 0.0, 0.5, worked=[90, 36]),
    ]
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        for answer in given:
            writer.append(answer)
    assert list(cell.read().values()) == given
    assert json.loads((cell.folder / "settings.json").read_text()) == SETTINGS
    lines = [json.loads(line) for line in cell.file.read_bytes().splitlines()]
    assert ["worked" in line for line in lines] == [False] * 4 + [True], "other lines are what they always were"
    assert [answer.by_layer for answer in cell.read().values()] == [[144, 36], [36, 36], None, None, [90, 36]]


def test_only_what_is_missing_or_failed_is_asked_again_and_the_last_answer_counts(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        writer.append(Answer(1, "A"))
        writer.append(Answer(2, None, "broken"))
    with cell.open() as writer:
        assert missing(writer.answers, [1, 2, 3]) == [2, 3]
        writer.append(Answer(2, "B"))
        assert missing(writer.answers, [1, 2, 3]) == [3]
    assert cell.read()[2] == Answer(2, "B")


def test_a_torn_last_line_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        writer.append(Answer(1, "A"))
        writer.append(Answer(2, "B"))
    whole = cell.file.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    for cut in (len(first) + 1, len(whole) - 1):
        cell.file.write_bytes(whole[:cut])
        caplog.clear()
        assert list(cell.read()) == [1]
        assert cell.file.stat().st_size == cut, "reading changes nothing"
        with cell.open() as writer:
            assert missing(writer.answers, [1, 2]) == [2]
            writer.append(Answer(2, "B"))
        assert "torn line" in caplog.text
        assert cell.file.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_an_error_not_a_gap(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        writer.append(Answer(1, "A"))
    for damage in (b"{}\n", b"not json\n", b'{"index":1,"unknown":2}\n'):
        cell.file.write_bytes(damage + cell.file.read_bytes())
        with pytest.raises(StoreError, match=r"line 1 of .*predictions.jsonl is not an answer"):
            cell.open()


def test_two_runs_cannot_write_one_cell(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open():
        with pytest.raises(StoreError, match="another run is answering"):
            cell.open()
        assert cell.read() == {}, "reading needs no lock"
    cell.open().close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_keeps_every_whole_line_and_half_of_none(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        writer.append(Answer(1, "A" * 100))
        before = cell.file.read_bytes()
        with file_size_limit(len(before) + 150):  # room for half of the next line
            with pytest.raises(Refused, match="cannot write .*jsonl: the file size limit is reached$"):
                writer.append(Answer(2, "B" * 100))
        assert cell.file.read_bytes() == before
        assert missing(writer.answers, [1, 2]) == [2]
        writer.append(Answer(2, "B" * 100))
    assert list(cell.read()) == [1, 2]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    cell = Store(tmp_path).cell(SETTINGS)
    with cell.open() as writer:
        writer.append(Answer(1, "A"))
        full, kept = os.open("/dev/full", os.O_WRONLY), os.dup(writer._journal._fd)
        os.dup2(full, writer._journal._fd)
        with pytest.raises(StoreError, match="disk is full"):
            writer.append(Answer(2, "B"))
        os.dup2(kept, writer._journal._fd)
        os.close(full)
        os.close(kept)
    assert list(cell.read()) == [1]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere; a read-only folder stops only others."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    readonly = tmp_path / "runs"
    readonly.mkdir(mode=0o555)
    with ordinary_user(), pytest.raises(StoreError, match="cannot write .*runs/cells.*permission is denied"):
        Store(readonly).cell(SETTINGS).open()


WRITER = """
import sys
from pathlib import Path
from harness.store import Answer, Store
from tests.sweep.test_store import SETTINGS
writer = Store(Path(sys.argv[1])).cell(SETTINGS).open()
for index in range(10**9):
    writer.append(Answer(index, "x" * 200))
    if index == 200:
        print("ready", flush=True)
"""


def test_kill_9_tears_no_line(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    cell = Store(tmp_path).cell(SETTINGS)
    lines = cell.file.read_bytes()
    answers = cell.read()
    assert len(answers) > 200 and list(answers) == list(range(len(answers)))
    with cell.open() as writer:
        assert len(writer.answers) == len(answers), "the dead run's lock is gone with it"
        writer.append(Answer(len(answers), "y"))
    assert cell.file.read_bytes().startswith(lines[: lines.rindex(b"\n") + 1])


def test_scores_are_kept_by_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.score("abc") is None
    store.save_score("abc", {"headline": 51.0})
    assert store.score("abc") == {"headline": 51.0}
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["abc.json"]


def test_predictions_digest_sees_order_failures_and_text() -> None:
    answers = {1: Answer(1, "A"), 2: Answer(2, None, "broken")}
    base = predictions_digest(answers, [1, 2])
    assert base == predictions_digest({2: Answer(2, None, "other reason"), 1: Answer(1, "A", seconds=3.0)}, [1, 2])
    assert base != predictions_digest(answers, [1])
    assert base != predictions_digest({**answers, 2: Answer(2, "null")}, [1, 2])


def test_indices_are_plain_and_settings_are_json() -> None:
    import numpy as np

    assert plain_index(np.int64(3)) == 3 and type(plain_index(np.int64(3))) is int
    assert plain_index("v1_0") == "v1_0"
    with pytest.raises(StoreError, match="float"):
        plain_index(1.5)
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})
