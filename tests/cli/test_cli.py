"""The command: what each mistake says, with which status, and that no traceback is shown."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli
from harness.experiments import loader
from harness.sweep import progress
from tests.benchmarks import layouts
from tests.conftest import Said
from tests.sweep.conftest import write_experiment
from tests.tiny import tiny_qwen2_vl

HEAVY = ("torch", "transformers", "vlmeval", "pandas", "decord")
ROWS = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    layouts.next_qa(folder)
    return folder


@pytest.fixture
def asked(tmp_path: Path, data: Path) -> list[object]:
    """The arguments of a small run."""
    path = write_experiment(tmp_path, tiny_qwen2_vl(seed=5), ROWS, ("NExT-QA-MC",))
    return ["run", path, "--profile", "paper", "--data", data, "--store", tmp_path / "runs"]


def sentence(err: str) -> str:
    """The one line that was said."""
    lines = [line for line in err.splitlines() if line.startswith("retain: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run"], "Missing argument"),
        (["rum"], "No such command"),
        (["run", "table3", "--keep", "1"], "No such option"),
        (["run", "table3", "--limit", "ten"], "Invalid value for '--limit'"),
        (["run", "table3", "--limit", "0"], "--limit 0: allowed are whole numbers from 1"),
        (["run", "tabel3"], "no experiment 'tabel3' (did you mean 'table3'?)"),
        (["run", "none.yaml"], "experiment file none.yaml does not exist"),
        (["run", "table3", "--profile", "mikro"], "no profile 'mikro' (did you mean 'micro'?); allowed"),
        (["run", "table3", "--profile", "paper", "--data", "/nowhere"], "--data /nowhere: there is no such folder"),
        (["table", "tabel3"], "no experiment 'tabel3'"),
        (["leaderboard", "table3", "tabel3", "--data", "/nowhere"], "no experiment 'tabel3'"),
        (["doctor", "table3", "--data", "/nowhere"], "--data /nowhere: there is no such folder"),
        (["doctor", "table3", "--profile", "paper", "--data", __file__], f"--data {__file__}: there is no such folder"),
        (["data", "MME", "--data", __file__], f"--data {__file__}: not a folder"),
        (["data", "--profile", "micro", "--data", __file__], f"--data {__file__}: not a folder"),
        (["reference", "table33"], "table33"),
    ],
)
def test_mistakes_in_the_command_line(said: Said, arguments: list[str], part: str) -> None:
    status, out, err = said(*arguments)
    assert status == 2 and part in err and out == ""


def test_help_and_lists_load_nothing_heavy(said: Said) -> None:
    code = (
        "import sys; from harness.cli import main; assert main(['--help']) == 0 and main(['list']) == 0;"
        f"assert not [name for name in {HEAVY} if name in sys.modules]"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("run", "table", "figure", "reference", "list", "data", "vlmeval", "micro", "bench", "efficiency"):
        assert f"\n  {name} " in out
    assert "models: micro-" in out and "experiments: bounds, check, figure3, matched, positions, table1" in out


def test_the_papers_own_table(said: Said, tmp_path: Path) -> None:
    status, out, _ = said("reference", "table3", "--store", tmp_path)
    assert status == 0 and "97.3" in out and "FastV" in out


def test_run_then_run_again_then_table(said: Said, asked: list[object], tmp_path: Path) -> None:
    status, out, err = said("table", *asked[1:])
    assert status == 3 and "incomplete (0 of 4)" in out and "2 cells are incomplete" in err
    status, out, _ = said(*asked)
    assert status == 0 and "| Random" in out and "incomplete" not in out
    written = sorted(path.name for path in (tmp_path / "runs" / "tables").iterdir())
    suffixes = ("csv", "md", "pairs.csv", "sources.json", "tex", "xlsx")
    assert written == [f"small.{suffix}" for suffix in suffixes]
    assert (tmp_path / "runs" / "tables" / "small.md").read_text() in out
    code = (
        "import sys; from harness.cli import main; status = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *map(str, asked)]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout == out + "[]\n" and "8 of them there already" in again.stderr
    status, table, _ = said("table", *asked[1:])
    assert status == 0 and table == (tmp_path / "runs" / "tables" / "small.md").read_text()
    status, out, _ = said(*asked, "--limit", 2)
    assert status == 0 and "first 2 samples of each benchmark" in out


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_a_bad_video_makes_its_cells_incomplete_and_the_status_3(
    said: Said, asked: list[object], data: Path, content: bytes
) -> None:
    (data / "NExT-QA" / "NExTVideo" / "4001.mp4").write_bytes(content)
    status, out, err = said(*asked)
    assert status == 3
    assert out.count("incomplete (2 of 4)") == 2
    assert "2 samples failed; they are asked again when the command is repeated:" in err
    listed = [line for line in err.splitlines() if "sample" in line and "4001.mp4" in line]
    assert len(listed) == 2 and all("(2 cells)" in line for line in listed)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda data: (data / "NExT-QA" / "NExTVideo" / "4001.mp4").unlink(), "4001.mp4"),
        (lambda data: shutil.rmtree(data / "NExT-QA"), "NExT-QA"),
        (lambda data: change(data / "NExT-QA" / "test.csv", "answer", "anwser"), "answer"),
        (lambda data: change(data / "NExT-QA" / "test.csv", ",1,1,", ",7,1,"), "7"),
    ],
    ids=["no video", "no folder", "no column", "wrong answer index"],
)
def test_data_that_cannot_be_used(
    said: Said, asked: list[object], data: Path, spoil: Callable[[Path], Any], part: str
) -> None:
    spoil(data)
    status, out, err = said(*asked)
    assert status == 2 and part in sentence(err) and "NExT-QA" in sentence(err) and out == ""


def test_a_tsv_without_a_column(said: Said, tmp_path: Path) -> None:
    folder = layouts.mmbench_video(tmp_path / "mm")
    change(folder / "MMBench-Video.tsv", "dimensions", "dimension")
    path = write_experiment(tmp_path, tiny_qwen2_vl(seed=5), ROWS, ("MMBench-Video",))
    status, _, err = said("run", path, "--profile", "paper", "--data", tmp_path / "mm", "--store", tmp_path / "runs")
    assert status == 2 and "dimensions" in sentence(err) and "MMBench-Video" in sentence(err)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_checkpoint_without_a_file(said: Said, asked: list[object], tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_qwen2_vl(seed=5), tmp_path / "broken")
    (tmp_path / "broken" / name).unlink()
    path = write_experiment(tmp_path, tmp_path / "broken", ROWS, ("NExT-QA-MC",))
    status, _, err = said("run", path, *asked[2:])
    assert status == 2 and name in sentence(err) and "broken" in sentence(err)


def test_a_disk_that_fills_up_then_room_again(
    said: Said, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)

    class FillsUp(progress.Progress):
        """After the first answer no file may grow beyond the size of one and a half."""

        def advance(self, failed: bool = False) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))

    monkeypatch.setattr(progress, "for_stream", FillsUp)
    try:
        status, out, err = said(*asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    monkeypatch.undo()
    assert status == 2 and "predictions.jsonl: the file size limit is reached" in sentence(err) and out == ""
    assert "every answer written before is kept" in err
    files = list((tmp_path / "runs").glob("cells/*/predictions.jsonl"))
    before = {path: path.read_bytes() for path in files}
    assert [content.count(b"\n") for content in before.values()] == [1, 1]
    assert all(content.endswith(b"\n") for content in before.values())
    status, out, _ = said(*asked)
    assert status == 0 and "incomplete" not in out
    assert all(path.read_bytes().startswith(content) for path, content in before.items())


def test_a_read_only_results_folder(said: Said, asked: list[object], data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    shutil.copytree(tiny_qwen2_vl(seed=5), tmp_path / "tiny")
    for file in (tmp_path / "tiny").iterdir():
        file.chmod(0o644)
    write_experiment(tmp_path, tmp_path / "tiny", ROWS, ("NExT-QA-MC",))
    for folder in data, *data.rglob("*"):
        folder.chmod(0o777)
    above = [folder for folder in tmp_path.parents if folder.is_relative_to(tempfile.gettempdir())]
    for folder in (tmp_path, tmp_path / "tiny", *above[:-1]):
        folder.chmod(0o755)
    root = os.geteuid() == 0
    assert said("list")[0] == 0
    if root:  # root may write anywhere: be somebody else
        os.seteuid(65534)
    try:
        status, _, err = said(*asked)
    finally:
        if root:
            os.seteuid(0)
    told = f"retain: --store {tmp_path / 'runs'} cannot be written to (permission is denied)"
    assert status == 2 and sentence(err) == told


@pytest.mark.parametrize("name", ["file", "file/x"])
def test_a_store_that_is_no_folder_is_told_before_anything_is_planned(
    said: Said, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from harness import plan

    monkeypatch.setattr(plan, "make", None)
    (tmp_path / "file").write_text("")
    status, out, err = said(*asked[:-1], tmp_path / name)
    assert status == 2 and sentence(err) == f"retain: --store {tmp_path / name}: not a folder" and out == ""


def test_a_misnamed_experiment_makes_no_store(said: Said, tmp_path: Path) -> None:
    assert said("run", "tabel3", "--store", tmp_path / "runs")[0] == 2
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_micro_data(said: Said, tmp_path: Path) -> None:
    """Nobody is sent to fetch real data for a micro experiment."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for command in (["run"], ["run", "--dry-run"], ["table"]):
        status, out, err = said(*command, "table3", "--data", folder, "--store", tmp_path / "runs")
        assert status == 2 and out == ""
        assert sentence(err) == (
            f"retain: --data {folder} lacks micro data: leave --data out, or make it: "
            f"`retain micro data --root {folder}` prints the folder to pass"
        )
    made = folder / "micro-0123456789ab"
    made.mkdir()
    (made / "manifest.json").write_text("{}")
    status, _, err = said("run", "table3", "--data", folder, "--store", tmp_path / "runs")
    assert status == 2 and sentence(err).endswith(f"lacks micro data itself: pass --data {made}, which has it")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["run", "table3"], "stopped; every answer given so far is kept. Go on with: retain run table3"),
        (
            ["compressor", "collect"],
            "stopped; every answer given so far is kept. Go on with: retain compressor collect",
        ),
        (["compressor", "train"], "stopped. Go on with: retain compressor train"),
        (["data", "MME"], "stopped. Go on with: retain data MME"),
        (["run", "table3", "--dry-run"], "stopped"),
        (["compressor", "evaluate"], "stopped"),
        (["bench"], "stopped"),
        (["flops", "run"], "stopped"),
    ],
)
def test_only_a_command_that_goes_on_is_said_to(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str], told: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "", "file")

    monkeypatch.setattr(cli, "app", interrupted)
    assert cli.main(command) == 130
    assert capfd.readouterr().err == f"\nretain: {told}\n"
    monkeypatch.setattr(cli, "app", full)
    assert cli.main(command) == 2
    err = capfd.readouterr().err
    assert err.startswith("retain: cannot use file: the disk is full")
    assert ("every answer written before is kept" in err) == ("every answer" in told)
    assert ("the same command goes on from there" in err) == ("Go on with" in told)


def test_control_c_says_how_to_go_on(
    said: Said, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(progress.Progress):
        def advance(self, failed: bool = False) -> None:
            super().advance(failed)
            if self.fresh == 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress, "for_stream", Interrupted)
    status, out, err = said(*asked)
    assert status == 130 and out == ""
    command = " ".join(map(str, asked))
    assert f"retain: stopped; every answer given so far is kept. Go on with: retain {command}" in err
    monkeypatch.undo()
    status, out, err = said(*asked)
    assert status == 0 and "8 answers, 3 of them there already" in err and "incomplete" not in out


def test_a_second_run_into_the_same_cells_is_refused(said: Said, asked: list[object], tmp_path: Path) -> None:
    from harness import plan
    from harness.experiments import load
    from harness.store import Store

    assert said(*asked, "--limit", 1)[0] == 0
    experiment = load(str(asked[1]), "paper")
    store = Store(tmp_path / "runs")
    made = plan.make(experiment, plan.Data(experiment, Path(str(asked[5]))), store)
    with store.cell(made.cells[0].settings).open():
        status, _, err = said(*asked)
    assert status == 2 and "another run is answering" in sentence(err)


def test_commands_that_hand_over_say_their_own_help(said: Said) -> None:
    status, out, _ = said("bench", "--help")
    said_once = " ".join(out.split())
    assert status == 0 and "--samples" in out
    assert "(default: 24576)" in said_once and "(default: results/micro/bench.json)" in said_once


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("leaderboard", "folder that leaderboard.csv, .json and .html are written to (default: STORE/leaderboard)"),
        ("figure", "into STORE/figures"),
        ("run", "micro or paper"),
        ("doctor", "micro or paper"),
    ],
)
def test_a_commands_help_says_where_it_writes_and_what_its_profiles_are(said: Said, command: str, part: str) -> None:
    status, out, _ = said(command, "--help")
    assert status == 0 and part in " ".join(out.split())


def test_a_leaderboard_of_what_was_run(said: Said, asked: list[object], tmp_path: Path) -> None:
    assert said(*asked)[0] == 0
    status, out, _ = said("leaderboard", *asked[1:], "--out", tmp_path / "board")
    assert status == 0 and "| Vanilla |" in out and f"Written: {tmp_path}/board/leaderboard.{{csv,json,html}}" in out
    lines = (tmp_path / "board/leaderboard.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("budget,model,method,")
    status, out, _ = said("leaderboard", *asked[1:], "--limit", 2)
    assert status == 0 and (tmp_path / "runs/leaderboard/leaderboard.html").is_file()


def test_a_leaderboard_of_answers_that_are_lacking_says_so(said: Said, asked: list[object], tmp_path: Path) -> None:
    status, _, err = said("leaderboard", asked[1], *asked[1:])
    assert status == 3 and "2 cells are incomplete; `retain run` answers what is missing." in err, "each told once"
    assert "incomplete (0 of 4)" in (tmp_path / "runs/leaderboard/leaderboard.csv").read_text()


def test_the_tables_in_the_store_that_go_together_make_the_leaderboard(
    said: Said, asked: list[object], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name: one after the other, less those that ask the same of other inputs."""
    runs, ours = tmp_path / "runs", tmp_path / "ours"
    rest = ["--profile", "paper", "--data", data, "--store", runs]
    status, _, err = said("leaderboard", *rest)
    assert status == 2 and f"there is no table in {runs / 'tables'} yet" in sentence(err)
    (runs / "tables").mkdir(parents=True)
    ours.mkdir()
    content = yaml.safe_load(Path(str(asked[1])).read_text())
    profile = content["profiles"]["paper"]
    settings = profile["model_settings"]
    for name, pixels in (("a", 3136), ("b", 12544), ("c", 3136)):
        for each in settings.values():
            each |= {"min_pixels": pixels, "max_pixels": pixels}
        (ours / f"{name}.yaml").write_text(yaml.safe_dump({**content, "name": name}))
        (runs / f"tables/{name}.csv").write_text("")
    monkeypatch.setattr(loader, "HERE", ours)
    status, out, err = said("leaderboard", *rest)
    assert status == 3 and out.startswith("**Leaderboard: a, c**")
    assert err.count("left out") == 1 and "left out: b asks " in err
    assert "2 cells are incomplete" in err, "those of a, which are those of c"
    # A table of another profile may lie there too.
    (ours / "d.yaml").write_text(yaml.safe_dump({**content, "name": "d", "profiles": {"micro": profile}}))
    (runs / "tables/d.csv").write_text("")
    for names in [], [ours / "a.yaml", ours / "c.yaml"]:
        status, out, _ = said("leaderboard", *names, *rest)
        assert status == 3 and out.startswith("**Leaderboard: a, c**")
