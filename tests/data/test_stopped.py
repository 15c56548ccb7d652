"""`retain data` as a process that is killed, or stopped by Ctrl-C, amid a large file of the hub."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.data.fetch import ask
from harness.data.state import state
from tests.benchmarks import layouts
from tests.loopback_hub import Hub, Repository, folder_files, serving, use

ROOT = Path(__file__).parents[2]
LARGE = random.Random(0).randbytes(8 << 20)
NAME = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """MVBench with a large file, whose first half is sent, and then nothing."""
    with serving() as found:
        files = folder_files(layouts.WRITERS["MVBench"](tmp_path / "published"))
        found.datasets["OpenGVLab/MVBench"] = Repository({**files, "large.bin": LARGE}, ("main", "video"))
        found.faults = lambda request: "stall" if request.path.endswith("large.bin") else None
        yield found


def begun(hub: Hub, data: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    asked = [sys.executable, "-m", "harness.cli", "data", "MVBench", "--data", str(data)]
    return subprocess.Popen(asked, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(part: Path, size: int) -> None:
    """Until what the server sent is there, but for less than one piece."""
    until = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= size):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_was_killed_or_stopped_is_gone_on_with(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    blobs = data / "hub" / "datasets--OpenGVLab--MVBench" / "blobs"
    part = blobs / f"{NAME}.part"
    process = begun(hub, data)
    wait_for(part, len(LARGE) // 2 - (1 << 16))
    process.kill()
    process.communicate()
    first = part.stat().st_size
    assert state("MVBench", data).status == "partial"
    (blobs / "0123.4567.incomplete").write_bytes(b"left by huggingface_hub")
    process = begun(hub, data)
    wait_for(part, first + (len(LARGE) - first) // 2 - (1 << 16))
    process.send_signal(signal.SIGINT)
    stopped = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - stopped < 2 and process.returncode == 130 and "Traceback" not in err
    second = part.stat().st_size
    hub.faults = lambda _: None
    use(hub, monkeypatch)
    assert (wanted := ask("MVBench", data)) and wanted.size == len(LARGE) - second
    process = begun(hub, data)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert hub.gets("large.bin") == [None, f"bytes={first}-", f"bytes={second}-"]
    assert hub.gets("test.json") == [None], "what was whole is not asked for again"
    assert (blobs / NAME).read_bytes() == LARGE and not list(blobs.glob("*.*"))
    assert state("MVBench", data).status == "present"
