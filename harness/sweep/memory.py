"""How much memory this process took, how much the machine can still give, and how much a checkpoint's weights take."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def peak() -> int:
    """The most memory (resident bytes) that this process ever held."""
    # On Linux `ru_maxrss` of a process counts what its parent held when it started it; VmHWM does not.
    status = _text(Path("/proc/self/status"))
    if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(found[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def available() -> int:
    """Bytes that new processes can take without others losing theirs; a container's limit counts."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    free = int(found[1]) << 10 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = _text(CGROUP / "memory.max").strip(), _text(CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def weights(folder: Path) -> int:
    """Bytes of the weight files in a checkpoint's folder and its parts."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin"))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
