"""Importing VLMEvalKit changes the process; importing it through the kit module does not.

Each import runs in a process of its own, once bare and once through ``load_vlmeval``: the bare one shows that there is
something to guard against.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

PROBE = """
import json, logging, os, random, ssl, sys, warnings
import numpy, torch

def state():
    return {
        "tls": ssl._create_default_https_context.__name__,
        "gradients": torch.is_grad_enabled(),
        "torch rng": torch.get_rng_state().sum().item(),
        "python rng": hash(random.getstate()),
        "handlers": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "environment": dict(os.environ),
        "path": list(sys.path),
        "muted warnings": [str(entry) for entry in warnings.filters if "pkg_resources" in str(entry[1])],
        "home": sorted(os.listdir(os.environ["HOME"])),
    }

torch.manual_seed(7), random.seed(7)
before = state()
IMPORT
after = state()
print(json.dumps({"before": before, "after": after, "extra": EXTRA}))
"""

GUARDED = "from model_wrappers.families.kit import load_vlmeval; load_vlmeval()"
ROOTS = "__import__('vlmeval').dataset.VsiBench.LMUData_root"


def probe(home: Path, statement: str, extra: str = "None", **environment: str) -> tuple[dict[str, Any], str]:
    """Runs the statement in a new process whose home is empty; returns what it changed, and the process's stderr."""
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "LMUData"}
    variables |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    code = PROBE.replace("IMPORT", statement).replace("EXTRA", extra)
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)  # also says that the import printed nothing
    changed = {name: found["after"][name] for name in found["before"] if found["before"][name] != found["after"][name]}
    return {**changed, "extra": found["extra"]}, run.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return probe(tmp_path_factory.mktemp("bare") / "home", "import vlmeval")


def test_a_bare_import_changes_the_process(bare: tuple[dict[str, Any], str]) -> None:
    changed, stderr = bare
    assert set(changed) >= {
        *("tls", "gradients", "torch rng", "python rng", "handlers", "environment", "path", "muted warnings", "home")
    }
    assert changed["tls"] == "_create_unverified_context"
    assert changed["home"] == ["LMUData"]
    assert "KMP_DUPLICATE_LIB_OK" in changed["environment"]
    assert ".env" in stderr


def test_the_guarded_import_changes_nothing(tmp_path: Path) -> None:
    statement = (
        f"{GUARDED}\nfrom model_wrappers.families.kit import kit_process\nloaded = state()\n"
        "with kit_process(): inside = state()"
    )
    extra = (
        f"[loaded == before, {ROOTS}, inside['gradients'], inside['tls'], 'LMUData' in inside['environment'],"
        " inside['environment']['VLMEVAL_CHARTMIMIC_UTILS_PATH'][-10:], inside['path'][0][-10:]]"
    )
    changed, stderr = probe(tmp_path / "home", statement, extra)
    would_be_root = str(tmp_path / "home" / "LMUData")  # where the kit would look, though the folder is not made
    # The kit's own command has gradients off and the variables that its parts read back, but TLS verification on.
    in_the_kit = [False, "create_default_context", False, "chartmimic", "chartmimic"]
    assert changed == {"extra": [True, would_be_root, *in_the_kit]}
    assert stderr == ""


def test_the_guarded_import_keeps_what_was_configured(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    statement = f"logging.basicConfig(level=20); torch.set_grad_enabled(False); {GUARDED}; again = load_vlmeval()"
    extra = f"[{ROOTS}, again is __import__('vlmeval')]"
    chosen = {"LMUData": str(tmp_path / "data"), "KMP_DUPLICATE_LIB_OK": "no"}
    changed, stderr = probe(tmp_path / "home", statement, extra, **chosen)
    assert changed == {
        "handlers": ["StreamHandler"],
        "level": 20,
        "gradients": False,
        "extra": [str(tmp_path / "data"), True],
    }
    assert ".env" not in stderr


def test_a_missing_kit_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "vlmeval").mkdir()
    (tmp_path / "vlmeval" / "__init__.py").write_text("import surely_absent_module\n")
    statement = (
        "from model_wrappers.families.kit import load_vlmeval\nfrom model_wrappers.errors import UserError\n"
        "try: load_vlmeval()\nexcept UserError as error: said = str(error)"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    changed, _ = probe(tmp_path / "home", statement, "[said, 'vlmeval' in sys.modules]", PYTHONPATH=path)
    assert changed["extra"] == [
        "VLMEvalKit cannot be imported (No module named 'surely_absent_module'); install ms-vlmeval and what it needs.",
        False,
    ]
    assert set(changed) == {"extra"}
