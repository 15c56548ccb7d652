"""What can be wrong in an experiment file, and that each is one sentence told before anything heavy loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.experiments import experiment_names, load
from model_wrappers.errors import UserError

GOOD = {
    "name": "mine",
    "title": "Mine",
    "benchmarks": ["MVBench", "Video-MME", "MMBench-Video"],
    "profiles": {
        "micro": {
            "models": ["micro-qwen2-vl"],
            "data": "micro",
            "frames": 8,
            "rows": [
                {"method": "vanilla"},
                {"method": "fastv", "fields": {"layer": 4}, "keep": [0.5, 0.25]},
                {"method": "oracle", "keep": 0.1},
            ],
        },
        "paper": {
            "models": ["Qwen2-VL-7B-Instruct"],
            "frames": 8,
            "judge": {"base_url": "http://localhost:1/v1", "model": "m"},
            "judges": {"MVBench": "exact"},
            "rows": [{"method": "vanilla"}, {"method": "random", "fields": {"seed": 3}, "keep": 1}],
        },
    },
}


def written(folder: Path, *places: tuple[str, object]) -> Path:
    """GOOD with values put at dotted places, as a file."""
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    for place, value in places:
        *parents, last = place.split(".")
        at = content
        for part in parents:
            at = at[int(part) if isinstance(at, list) else part]
        if isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    micro = load(written(tmp_path), "micro", max_samples=3)
    assert [(row.method, row.fields, row.keep) for row in micro.rows] == [
        ("vanilla", {}, [1.0]),
        ("fastv", {"layer": 4}, [0.5, 0.25]),
        ("oracle", {}, [0.1]),
    ]
    assert (micro.data, micro.frames, micro.max_samples, micro.judge_of("MVBench")) == ("micro", 8, 3, "exact")
    paper = load(written(tmp_path), "paper")
    judge = paper.judge_of("Video-MME")
    assert not isinstance(judge, str) and judge.model == "m"
    assert paper.judge_of("MVBench") == "exact"


def test_table3_is_as_the_paper_has_it_with_bounds_only_in_micro() -> None:
    assert "table3" in experiment_names()
    micro, paper = load("table3"), load("table3", "paper")
    assert micro.benchmarks == paper.benchmarks
    assert len(micro.benchmarks) == 6
    assert [row.method for row in micro.rows] == [
        "vanilla", "fastv", "cnn", "relevance", "random", "oracle", "anti-oracle",
    ]  # fmt: skip
    assert [row.method for row in paper.rows] == ["vanilla", "fastv", "cnn"]
    assert all(row.keep == [0.5, 0.25, 0.1] for row in micro.rows[1:5] + paper.rows[1:])
    assert paper.pixels == 504 * 504 and micro.frames == paper.frames == 8


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("titel", "x", r"unknown key 'titel' \(did you mean 'title'\?\); allowed are name, title, bench"),
        ("profiles.micro.frame", 8, r"unknown key 'profiles.micro.frame' \(did you mean 'frames'\?\)"),
        ("profiles.micro.rows.1.keeps", 1, r"unknown key 'profiles.micro.rows.1.keeps' \(did you mean 'keep'\?\)"),
        ("profiles.paper.judge.url", "x", r"unknown key 'profiles.paper.judge.url'.*allowed are base_url, model"),
        ("benchmarks.0", "MVBnch", r"benchmarks: unknown name 'MVBnch' \(did you mean 'MVBench'\?\); allowed are"),
        ("benchmarks.0", "Video-MME", "benchmarks: 'Video-MME' is given twice"),
        ("benchmarks", [], "benchmarks: .*at least 1 item"),
        ("profiles.micro.models.0", "micro-qwen", "profiles.micro.models: .*micro-qwen"),
        ("profiles.micro.rows.1.method", "fastvv", r"rows.1.method: unknown name 'fastvv' \(did you mean 'fastv'"),
        ("profiles.micro.rows.1.fields.layers", 4, "rows.1.fields: .*layers.*layer"),
        ("profiles.micro.rows.1.fields.layer", 1, "rows.1.fields: fastv: layer=1"),
        ("profiles.micro.rows.1.fields.layer", "four", "rows.1.fields: .*layer.*four"),
        ("profiles.micro.rows.1.keep", 0, r"rows.1.keep.0: 0 is not a keep; allowed are numbers above 0 and up to 1"),
        ("profiles.micro.rows.1.keep", [0.5, 1.5], "rows.1.keep.1: 1.5 is not a keep"),
        ("profiles.micro.rows.1.keep", [True], "rows.1.keep.0: True is not a keep"),
        ("profiles.micro.rows.1.keep", ["25%"], "rows.1.keep.0: '25%' is not a keep"),
        ("profiles.micro.rows.1.keep", [float("nan")], "rows.1.keep.0: nan is not a keep"),
        ("profiles.micro.rows.1.keep", [0.5, 0.5], "rows.1.keep: 0.5 is given twice"),
        ("profiles.micro.rows.2", {"method": "fastv", "fields": {"layer": 4}, "keep": 0.5}, "given twice"),
        ("profiles.micro.rows.2", {"method": "fastv", "keep": 0.25}, "0.25 is given twice"),
        ("profiles.micro.rows.1", {"method": "fastv"}, "rows.1: key 'keep' is missing"),
        ("profiles.micro.rows.0", {"method": "vanilla", "keep": 0.5}, "rows.0: vanilla cuts nothing"),
        ("profiles.micro.rows", [], "profiles.micro.rows: .*at least 1 item"),
        ("profiles.paper.rows.0", {"method": "oracle", "keep": 0.5}, "rows.0.method: oracle .* only data: micro"),
        ("profiles.micro.frames", 0, "profiles.micro.frames: '0' is not allowed"),
        ("profiles.micro.frames", "8", "profiles.micro.frames: '8' is not allowed here: .*integer"),
        ("profiles.micro.judge", "gpt", "profiles.micro.judge: 'gpt' is not a judge; allowed are 'exact'"),
        ("profiles.micro.judge", "official", "profiles.micro.judge: MMBench-Video has no official metric"),
        ("profiles.micro.judges", {"MMStar": "exact"}, "profiles.micro.judges: unknown name 'MMStar'"),
        ("profiles.paper.judge", {"base_url": "ftp://x", "model": "m"}, "judge.base_url: 'ftp://x' is not allowed"),
        ("profiles.micro.attention", "fast", "profiles.micro.attention: 'fast' is not allowed.*'sdpa', 'eager'"),
        ("profiles", {}, "profiles: .*at least 1 item"),
        ("name", 3, "name: '3' is not allowed here: .*string"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path: Path, place: str, value: object, said: str) -> None:
    path = written(tmp_path, (place, value))
    with pytest.raises(UserError, match=said) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("name: [\n", "mine.yaml, line 2: "),
        ("", "the file holds nothing; expected keys such as name"),
        ("- 1\n", "expected keys such as name"),
        ("1: 2\n", "line 1: key 1 is not text"),
        ("name: mine\n", "key 'title' is missing"),
        ("name: \udcff", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said):
        load(path)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment 'tabel3' \(did you mean 'table3'\?\); allowed are "):
        load("tabel3")
    with pytest.raises(UserError, match="experiment file .*none.yaml does not exist"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"no profile 'papr' \(did you mean 'paper'\?\); allowed are micro, paper"):
        load("table3", "papr")
    with pytest.raises(UserError, match="--limit 0"):
        load("table3", max_samples=0)


def test_checking_loads_nothing_heavy() -> None:
    code = (
        "import sys; from harness.experiments import load; load('table3'); load('table3', 'paper');"
        "print([m for m in ('torch', 'transformers', 'vlmeval', 'pandas', 'decord') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
