"""One file over HTTP: resumed, verified, and every fault of a server told in one sentence."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import tenacity

from model_wrappers import download as downloading
from model_wrappers.download import download, size_of
from model_wrappers.errors import UserError
from tests.loopback_hub import Hub, serving

CONTENT = random.Random(1).randbytes(3_000_000)
CHECKSUM: Any = ("md5", hashlib.md5(CONTENT).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as found:
        found.plain["/MME.tsv"] = CONTENT
        monkeypatch.setattr(tenacity.nap, "sleep", lambda _: None)
        monkeypatch.setattr(downloading.tenacity, "wait_exponential", lambda **_: tenacity.wait_none())
        monkeypatch.setattr(downloading, "READ", 0.2)
        yield found


def test_a_file_is_got_whole(server: Hub, tmp_path: Path) -> None:
    seen: list[int] = []
    assert size_of(f"{server.url}/MME.tsv") == len(CONTENT)
    download(f"{server.url}/MME.tsv", tmp_path / "deep" / "MME.tsv", CHECKSUM, seen.append)
    assert (tmp_path / "deep" / "MME.tsv").read_bytes() == CONTENT and sum(seen) == len(CONTENT)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["MME.tsv"]
    server.asked.clear()
    download(f"{server.url}/MME.tsv", tmp_path / "deep" / "MME.tsv", CHECKSUM)
    assert server.asked == [], "it is there"
    server.faults = lambda _: 405
    assert size_of(f"{server.url}/MME.tsv") is None


def test_what_was_cut_goes_on(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_PIECE", 1000)
    cuts = [True, True]
    server.faults = lambda _: "cut" if cuts and cuts.pop() else None
    seen: list[int] = []
    download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", CHECKSUM, seen.append)
    half, quarter = len(CONTENT) // 2, len(CONTENT) // 4
    assert server.gets("/MME.tsv") == [None, f"bytes={half}-", f"bytes={half + quarter}-"]
    assert (tmp_path / "MME.tsv").read_bytes() == CONTENT and sum(seen) == len(CONTENT)


def test_another_process_goes_on_with_what_one_left(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "MME.tsv.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", CHECKSUM)
    assert server.gets("/MME.tsv") == ["bytes=1000-"]
    assert (tmp_path / "MME.tsv").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_what_was_left_of_another_file_is_thrown_away(left: bytes, server: Hub, tmp_path: Path) -> None:
    (tmp_path / "MME.tsv.part").write_bytes(left)
    seen: list[int] = []
    download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", CHECKSUM, seen.append)
    assert (tmp_path / "MME.tsv").read_bytes() == CONTENT and sum(seen) == len(CONTENT)


def test_a_server_without_ranges_sends_it_all_again(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "MME.tsv.part").write_bytes(CONTENT[:1000])

    def forget(request: Any) -> None:
        del request.headers["Range"]

    server.faults = forget
    download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", CHECKSUM)
    assert (tmp_path / "MME.tsv").read_bytes() == CONTENT


def test_other_bytes_than_published_are_not_taken(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another md5 than the published 123"):
        download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", ("md5", "123"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, r"has no such file \(404\)"),
        (403, r"refuses it \(403\)"),
        (500, r"fails \(500\), 6 times in a row; repeat the command later"),
        ("hang", "gave nothing for 0.2 seconds, 6 times in a row"),
    ],
)
def test_a_server_with_a_fault(fault: Any, words: str, server: Hub, tmp_path: Path) -> None:
    url = f"{server.url}/MME.tsv"
    server.faults = lambda _: fault
    (tmp_path / "MME.tsv.part").write_bytes(CONTENT[:1000])
    for ask in (lambda: download(url, tmp_path / "MME.tsv", CHECKSUM), lambda: size_of(url)):
        with pytest.raises(UserError, match=words) as caught:
            ask()
        assert url in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "MME.tsv.part").read_bytes() == CONTENT[:1000], "what was got is kept"


def test_a_server_that_always_cuts_is_given_up_only_when_nothing_comes(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try brings half of what is missing, so that there are more than six."""
    monkeypatch.setattr(downloading, "_PIECE", 1)
    server.plain["/MME.tsv"] = CONTENT[:1000]
    server.faults = lambda _: "cut"
    small: Any = ("md5", hashlib.md5(CONTENT[:1000]).hexdigest())
    with pytest.raises(UserError, match="cut the connection .*6 times in a row"):
        download(f"{server.url}/MME.tsv", tmp_path / "MME.tsv", small)
    assert (tmp_path / "MME.tsv.part").stat().st_size == 999, "the half of the last byte is nothing"
    assert len(server.gets("/MME.tsv")) > 10


def test_nobody_listens(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="http://127.0.0.1:9/x: the server cannot be reached"):
        download("http://127.0.0.1:9/x", tmp_path / "x", CHECKSUM)


def test_a_folder_that_cannot_be_written(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=f"{tmp_path / 'file' / 'MME.tsv'} cannot be written"):
        download(f"{server.url}/MME.tsv", tmp_path / "file" / "MME.tsv", CHECKSUM)


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Also where something, such as VLMEvalKit's import, has told urllib to verify none."""
    pem = Path(__file__).parents[1] / "scoring" / "self-signed-localhost.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = ssl._create_default_https_context
    ssl._create_default_https_context = ssl._create_unverified_context
    try:
        with pytest.raises(UserError, match="is not trusted: its certificate cannot be verified"):
            download(f"https://localhost:{server.server_port}/MME.tsv", tmp_path / "MME.tsv", CHECKSUM)
    finally:
        ssl._create_default_https_context = before
        server.shutdown()
        server.server_close()
