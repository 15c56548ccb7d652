"""Checkpoints from a hub on this machine: downloaded at a pinned revision, and every fault told in one sentence."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from harness import models
from harness.cli import main
from harness.models import ModelInfo, open_model
from model_wrappers import download as downloading
from model_wrappers import hub as client
from model_wrappers.errors import UserError
from model_wrappers.families.checkpoint import find_checkpoint
from tests.loopback_hub import COMMIT, Hub, Repository, folder_files, serving, use
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

ROOT = Path(__file__).parents[2]
NAME = "someone/Tiny-VL"
HELLO = [{"type": "text", "value": "Hello"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one checkpoint, and an empty cache."""
    with serving() as found:
        use(found, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        found.models[NAME] = Repository(folder_files(Path(tiny_qwen2_vl())))
        yield found


def known(monkeypatch: pytest.MonkeyPatch, family: str, revision: str = COMMIT) -> None:
    """Has the table of models know the one on the hub."""
    monkeypatch.setitem(models._KNOWN, "Tiny-VL", ModelInfo("Tiny-VL", family, NAME, revision, {"max_new_tokens": 2}))


@pytest.mark.parametrize(
    ("family", "make"),
    [("qwen2_vl", tiny_qwen2_vl), ("llava_onevision", tiny_llava_onevision), ("llava_llama", tiny_vila)],
)
def test_a_published_checkpoint_at_its_commit(hub: Hub, monkeypatch: Any, family: str, make: Any) -> None:
    folder = Path(make(layout="hub") if make is tiny_vila else make())
    hub.models[NAME] = Repository(folder_files(folder))
    known(monkeypatch, family)
    model = open_model("Tiny-VL", device="cpu", dtype="float32")
    answer = model.generate(HELLO)
    weights = {name: t.clone() for name, t in model.model.state_dict().items()}
    model.close()
    assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.asked if "/resolve/" in path)
    again = open_model(str(folder), device="cpu", dtype="float32", max_new_tokens=2)
    assert again.generate(HELLO) == answer
    assert weights.keys() == again.model.state_dict().keys()
    assert all(torch.equal(weights[name], t) for name, t in again.model.state_dict().items())
    hub.asked.clear()
    open_model("Tiny-VL", device="cpu").close()
    assert hub.asked == [], "the cache is enough"


def told(name: str = NAME, revision: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_checkpoint(name, revision)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    return str(caught.value)


def test_no_such_repository_or_revision(hub: Hub) -> None:
    assert f"is not on the hub ({hub.url}), or is private: check its name" in told("someone/else")
    assert f"has no revision v9 on the hub ({hub.url}/{NAME})" in told(NAME, "v9")
    assert "has no revision ffff" in told(NAME, "f" * 40), "a pinned commit"


@pytest.mark.parametrize("part", ["/api/", "/resolve/"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (403, "is gated: accept its terms at http://"),
        (500, "fails (500); repeat the command later, what was downloaded is kept"),
        ("hang", "gave nothing for 0.2 seconds"),
    ],
)
def test_a_hub_with_a_fault(hub: Hub, part: str, fault: Any, words: str) -> None:
    hub.models[NAME] = Repository({"config.json": b"{}"})
    hub.faults = lambda request: fault if part in request.path else None
    assert words in told()
    assert words in told(NAME, COMMIT), "a pinned commit"


def test_nobody_listens(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the connection to the hub (http://127.0.0.1:9) fails" in told()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids to ask the hub" in told()


def test_a_connection_that_is_cut_goes_on_where_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_PIECE", 1000)  # a piece of which only a part came is got again
    cut = ["model.safetensors"]

    def once(request: Any) -> str | None:
        return "cut" if request.command == "GET" and cut and request.path.endswith(cut[0]) and cut.pop() else None

    hub.faults = once
    folder = find_checkpoint(NAME, COMMIT)
    size = len(hub.models[NAME].files["model.safetensors"])
    assert hub.gets("model.safetensors") == [None, f"bytes={size // 2 // 1000 * 1000}-"]
    assert (folder / "model.safetensors").read_bytes() == hub.models[NAME].files["model.safetensors"]


def test_a_process_that_was_killed_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    content = hub.models[NAME].files["model.safetensors"]
    blobs = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(content).hexdigest()}.part").write_bytes(content[:1000])
    folder = find_checkpoint(NAME, COMMIT)
    assert hub.gets("model.safetensors") == ["bytes=1000-"]
    assert (folder / "model.safetensors").read_bytes() == content and not list(blobs.glob("*.*"))


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: Any, capfd: Any, tmp_path: Path) -> None:
    """The hub sends clients to another server for large files; and a netrc's password does not take its place."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    keys: dict[str, set[str | None]] = {"hub": set(), "store": set()}
    with serving() as store:
        store.models = hub.models
        elsewhere = store.url.replace("127.0.0.1", "localhost")

        def send_on(request: Any) -> str | None:
            large = request.command == "GET" and request.path.endswith("model.safetensors")
            keys["hub"] |= {request.headers["Authorization"]} if large else set()
            return elsewhere + request.path if large else None

        hub.faults = send_on
        store.faults = lambda request: keys["store"].add(request.headers["Authorization"])
        find_checkpoint(NAME, COMMIT)
    assert keys == {"hub": {"Bearer hf_secret"}, "store": {None}} and store.gets("model.safetensors") == [None]
    assert "hf_secret" not in "".join(capfd.readouterr())


def test_a_download_that_was_given_up_is_not_taken_for_a_checkpoint(hub: Hub) -> None:
    hub.faults = lambda request: 500 if request.path.endswith("model.safetensors") else None
    assert "fails (500)" in told(NAME, COMMIT)
    hub.faults = lambda request: None
    hub.asked.clear()
    assert (find_checkpoint(NAME, COMMIT) / "model.safetensors").is_file()
    assert hub.gets("model.safetensors") == [None] and hub.gets("config.json") == []


def test_a_users_own_client_stays(hub: Hub) -> None:
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    made = []

    def own() -> Any:
        made.append(_http.default_client_factory())
        return made[-1]

    set_client_factory(own)
    try:
        client.download(NAME, COMMIT)
        assert made and _http._GLOBAL_CLIENT_FACTORY is own
    finally:
        set_client_factory(_http.default_client_factory)


def test_the_command_says_it_in_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    known(monkeypatch, "qwen2_vl", "f" * 40)
    asked = ["show", "--model", "Tiny-VL", "--question", "What?", "--image", str(tmp_path / "a.png")]
    assert main(asked) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("retain: ")]
    assert f"the model {NAME} has no revision {'f' * 40} on the hub ({hub.url}/{NAME})" in said


def test_a_process_finds_the_hub_by_hf_endpoint(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    asked = [sys.executable, "-m", "harness.cli", "data", "MVBench", "--data", str(tmp_path / "data")]
    done = subprocess.run(asked, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"MVBench: the dataset OpenGVLab/MVBench is not on the hub ({hub.url})" in done.stderr
