"""What can be wrong in an experiment file, and that each is one sentence told before anything heavy loads."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.experiments import Judge, experiment_names, load, names_with
from harness.judging.models import DEFAULTS, OPENAI
from harness.models import model_info
from harness.tables.layout import APART
from harness.tables.reference import EFFICIENCY
from model_wrappers.errors import UserError
from model_wrappers.registry import _BUILT_IN
from tests.project.repository import ROOT

QWEN = "micro-qwen2-vl"
GOOD: dict[str, Any] = {
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


def test_groups_of_benchmarks_have_an_average_each(tmp_path: Path) -> None:
    one = load(written(tmp_path))
    assert [(group.benchmarks, group.header, group.key) for group in one.groups] == [
        (GOOD["benchmarks"], "Avg.(%)", "avg_pct")
    ]
    groups = [
        {"benchmarks": ["MVBench", "Video-MME"], "header": "A", "key": "a_avg_pct"},
        {"benchmarks": "MMBench-Video"},
    ]
    path = without_benchmarks(tmp_path, groups=groups)
    two = load(path)
    assert [group.benchmarks for group in two.groups] == [["MVBench", "Video-MME"], ["MMBench-Video"]]
    assert two.benchmarks == ["MVBench", "Video-MME", "MMBench-Video"]
    with pytest.raises(UserError, match="mine.yaml: key 'benchmarks' is missing; .* 'groups'"):
        load(without_benchmarks(tmp_path))
    with pytest.raises(UserError, match="mine.yaml: groups: .*'MVBnch'.*did you mean 'MVBench'"):
        load(without_benchmarks(tmp_path, groups=[{"benchmarks": ["MVBnch"]}]))


def without_benchmarks(folder: Path, **more: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**{key: value for key, value in GOOD.items() if key != "benchmarks"}, **more}))
    return path


def test_benchmarks_of_the_kit_and_of_ones_own(tmp_path: Path) -> None:
    """By the name that VLMEvalKit registers, or that of a TSV in the data folder; in profiles over real data."""
    content = {**GOOD, "benchmarks": ["HallusionBench", "Mine"], "profiles": {"paper": GOOD["profiles"]["paper"]}}
    content = yaml.safe_load(yaml.safe_dump(content))
    del content["profiles"]["paper"]["judges"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="mine.yaml: benchmarks: there is no benchmark 'Mine'"):
        load(path, "paper")
    (tmp_path / "LMUData").mkdir()
    (tmp_path / "LMUData/Mine.tsv").write_text("index\timage\tquestion\tanswer\tA\tB\n")
    assert load(path, "paper", data=tmp_path).benchmarks == ["HallusionBench", "Mine"]


def test_a_model_may_have_settings_of_its_own(tmp_path: Path) -> None:
    settings = {QWEN: {"frames": 4, "max_pixels": 3136, "min_pixels": None, "temperature": 1}}
    chosen = load(written(tmp_path, ("profiles.micro.model_settings", settings)))
    assert (chosen.frames, chosen.frames_of(QWEN), chosen.frames_of("another")) == (8, 4, 8)
    assert chosen.settings_of(QWEN) == {"max_pixels": 3136, "min_pixels": None, "temperature": 1}
    assert chosen.settings_of("another") == {}


IMAGES = ["MME", "MMStar", "MMVet"]
VIDEOS = ["Video-MME", "MVBench", "MMBench-Video"]
QA = ["NExT-QA-MC", "NExT-QA-OE", "ActivityNet-QA"]
HALF, LESS = [0.5, 0.25], [0.5, 0.25, 0.1]


@pytest.mark.parametrize(
    ("name", "families", "benchmarks", "rows"),
    [
        ("table1", 3, IMAGES + VIDEOS, {"relevance": HALF}),
        ("table2", 2, [*IMAGES, "SEEDBench_IMG"], {"fastv": HALF, "cnn": HALF}),
        ("table3", 3, VIDEOS + QA, {"fastv": LESS, "cnn": LESS}),
        ("table4", 3, IMAGES + VIDEOS, {"relevance": [0.5, 0.5]}),
        ("table5", 2, [*IMAGES, "SEEDBench_IMG"], {"fastv": HALF, "cnn": HALF}),
        ("table6", 3, VIDEOS + QA, {"fastv": HALF, "cnn": HALF}),
    ],
)
def test_the_tables_are_as_the_paper_has_them(name: str, families: int, benchmarks: list[str], rows: Any) -> None:
    """Both profiles ask the paper's rows of the paper's families on its benchmarks; bounds stand only in micro."""
    paper, micro = load(name, "paper"), load(name)
    assert paper.benchmarks == micro.benchmarks == benchmarks
    assert [len(paper.models), len(micro.models)] == [families, families]
    assert micro.models == ["micro-llava-onevision", "micro-qwen2-vl", "micro-vila"][:families]
    assert all(name.startswith("micro") for name in micro.models) and micro.data == "micro" and paper.data is None
    assert "micro" in micro.title and "micro" not in paper.title
    for experiment in paper, micro:
        keeps: dict[str, list[float]] = {}
        for row in experiment.rows:
            keeps[row.method] = keeps.get(row.method, []) + row.keep
        assert keeps.pop("vanilla") == [1.0]
        extra = set(keeps) - set(rows)
        assert {method: keeps[method] for method in rows} == rows
        ours = set() if experiment is paper else {"relevance", "oracle", "anti-oracle"}
        assert extra <= ours | {"random", "downsample"}
    assert {row.fields["seed"] for row in micro.rows if row.method == "random"} == {0, 1, 2}


MICRO = [*names_with("micro"), str(ROOT / "results/micro/ablations/taught.yaml")]
"""Every experiment on the micro models."""


@pytest.mark.parametrize("name", MICRO, ids=lambda name: Path(name).stem)
def test_a_micro_row_below_random_or_downsample_is_marked_wherever_it_stands(name: str) -> None:
    """Also the samples that matter are those that downsample gets wrong at the same retention. Bounds are apart."""
    chosen = load(name)
    keeps: dict[Any, set[float]] = {}
    for row in chosen.rows:
        keeps.setdefault((row.method, row.fields.get("seed")), set()).update(row.keep)
    asked = {keep for (method, _), kept in keeps.items() if method not in APART for keep in kept}
    assert keeps.get(("downsample", None)) == asked
    assert all(keeps.get(("random", seed)) == asked for seed in (0, 1, 2)) and ("random", 3) not in keeps


def test_micro_results_are_about_all_micro_models() -> None:
    """But for the tables in which the paper has no VILA, and for the one whose compressors were taught from one."""
    families = ["micro-llava-onevision", "micro-qwen2-vl", "micro-vila"]
    fewer = {load(name).name: load(name).models for name in MICRO if load(name).models != families}
    assert {*fewer} <= {"table2", "table5", "table7", "taught"}


@pytest.mark.parametrize("name", [*(f"table{number}" for number in range(1, 9)), "figure3", "matched"])
def test_samples_that_matter_are_told_on_every_benchmark(name: str) -> None:
    chosen = load(name, "paper")
    (smaller,) = [row for row in chosen.rows if row.method == "downsample"]
    assert set(smaller.keep) == {keep for row in chosen.rows if row.keep != [1.0] for keep in row.keep}
    for profile in ("paper", "micro"):
        asked = {name for table in ("table2", "table3", "figure3") for name in load(table, profile).benchmarks}
        assert asked == {*IMAGES, "SEEDBench_IMG", *VIDEOS, *QA}


@pytest.mark.parametrize("name", ["table2", "table3", "table5", "table6", "table7", "table8"])
def test_a_row_of_the_paper_below_random_is_marked(name: str) -> None:
    """At each retention at which others stand; on real weights one seed, since each costs as much as a method."""
    chosen = load(name, "paper")
    drawn = {row.fields["seed"]: set(row.keep) for row in chosen.rows if row.method == "random"}
    assert drawn == {0: {keep for row in chosen.rows if row.method in ("fastv", "cnn") for keep in row.keep}}


def test_the_judges_of_the_paper_are_those_that_vlmevalkit_asks() -> None:
    """By the names that VLMEvalKit's own table gives them; and the paper's profile has a judge where one is needed."""
    from harness.benchmarks import benchmark
    from harness.vlmevalkit import kit

    source = inspect.getsource(kit("vlmeval.dataset.utils.judge_util").build_judge)
    asked = {"MMVet": "gpt-4-turbo", "MMBench-Video": "gpt-4-turbo", "ActivityNet-QA": "chatgpt-0125"}
    for name, known in asked.items():
        assert f"'{known}': '{DEFAULTS[name]}'" in source
    runs = inspect.getsource(importlib.import_module("vlmeval.run").get_judge_kwargs)
    assert re.search(
        r"'MMVet', 'LLaVABench', 'MMBench_Video'\].*?else:\s+judge_kwargs\['model'\] = 'gpt-4-turbo'", runs, re.S
    )
    for experiment in (load(name, "paper") for name in names_with("paper")):
        for name in experiment.benchmarks:
            judge = experiment.judge_of(name)
            if name in DEFAULTS:
                key = "OPENAI_API_KEY"
                assert judge == Judge(base_url=OPENAI, model=DEFAULTS[name], key_env=key), (experiment.name, name)
            else:
                assert judge == "official" and not benchmark(name).needs_judge


def test_a_judge_may_be_said_in_part(tmp_path: Path) -> None:
    def of(judge: object, name: str = "MMBench-Video") -> Any:
        return load(written(tmp_path, ("profiles.paper.judges", {name: judge})), "paper").judge_of(name)

    assert of("default") == of({}) == Judge(model=DEFAULTS["MMBench-Video"]) == of({"base_url": OPENAI})
    assert of("default").key_env == "OPENAI_API_KEY"
    local = of({"base_url": "http://localhost:8000/v1", "model": "qwen", "price": {"prompt": 0, "completion": 0.5}})
    assert (local.model, local.key_env, local.price.completion) == ("qwen", None, 0.5)  # OpenAI's key is for OpenAI
    assert of({"base_url": "http://localhost:8000/v1"}).model == DEFAULTS["MMBench-Video"]
    assert of({"model": "gpt-4.1", "key_env": "MINE"}).key_env == "MINE"
    with pytest.raises(UserError, match="MVBench has no default judge; give the judge a model"):
        of("default", "MVBench")
    with pytest.raises(UserError, match=r"unknown key '.*price.completions' \(did you mean 'completion'"):
        of({"price": {"prompt": 1, "completion": 1, "completions": 1}})
    with pytest.raises(UserError, match=r"price.prompt: '-1' is not allowed"):
        of({"price": {"prompt": -1, "completion": 1}})


def test_larger_inputs_are_what_tables_5_and_6_are_about() -> None:
    before, after = load("table3", "paper"), load("table6", "paper")
    llava, qwen, vila = after.models
    assert [before.frames_of(model) for model in before.models] == [8, 8, 8]
    assert [after.frames_of(model) for model in after.models] == [32, 32, 16]
    assert after.settings_of(qwen)["max_pixels"] == 384 * 28 * 28 and after.settings_of(vila) == {}
    before, after = load("table2", "paper"), load("table5", "paper")
    assert before.settings_of(qwen) == {} and model_info(qwen).defaults["image_pixels"] == 43 * 43 * 784
    bounds = {"min_pixels": 1280 * 784, "max_pixels": 16384 * 784 // 2}
    assert after.settings_of(qwen) == {"image_pixels": None, **bounds}
    assert before.settings_of(llava) == {"max_pixels": 384 * 384} and after.settings_of(llava) == {"max_pixels": None}
    micro = load("table5").settings_of("micro-qwen2-vl")
    assert micro["min_pixels"] == micro["max_pixels"] and int(str(micro["max_pixels"])) // 784 >= 2.5 * 144
    assert load("table6").frames >= 2.5 * load("table3").frames


def test_tables_7_and_8_are_tables_5_and_6_with_what_they_cost() -> None:
    """The paper's inputs for FLOPs; its preservations are those of MMStar in Table 5 and of MVBench in Table 6."""
    at = {"table7": {"llava": 1728, "Qwen2": 1302}, "table8": {"llava": 6272, "Qwen2": 5824, "Llama": 3136}}
    for name, other, benchmark in (("table7", "table5", "MMStar"), ("table8", "table6", "MVBench")):
        paper, scored = load(name, "paper"), load(other, "paper")
        assert paper.benchmarks == [benchmark] and paper.models == scored.models
        assert (paper.model_settings, paper.frames) == (scored.model_settings, scored.frames)
        assert {model[:5]: tokens for model, tokens in paper.costs_at.items()} == at[name]
        assert list(load(name).costs_at) == load(name).models and load(other).costs_at == {}


@pytest.mark.parametrize("profile", ["micro", "paper"])
@pytest.mark.parametrize("name", ["table7", "table8", "figure3"])
def test_every_method_stands_where_all_are_compared(name: str, profile: str) -> None:
    """Also those of videos in the table of images, which shows a dash; what is left out has its reason in the file."""
    absent = {"relevance"} if (name, profile) == ("figure3", "paper") else set()
    assert {row.method for row in load(name, profile).rows} == {*_BUILT_IN} - absent


def test_costs_are_told_for_models_of_the_table(tmp_path: Path) -> None:
    assert load(written(tmp_path, ("profiles.micro.costs_at", {QWEN: 144}))).costs_at == {QWEN: 144}
    with pytest.raises(UserError, match="profiles.micro.costs_at: unknown name 'micro-vila'.*allowed are micro-qwen2"):
        load(written(tmp_path, ("profiles.micro.costs_at", {"micro-vila": 144})))
    with pytest.raises(UserError, match=f"profiles.micro.costs_at.{QWEN}: '0' is not allowed"):
        load(written(tmp_path, ("profiles.micro.costs_at", {QWEN: 0})))


def test_the_check_needs_only_what_is_got_before_it() -> None:
    """The second of the README's checks: of the data that the first one gets, with the inputs of Table 1."""
    from harness.benchmarks import benchmark

    found, table1 = load("check", "paper"), load("table1", "paper")
    assert (found.benchmarks, [row.method for row in found.rows]) == (["MMStar"], ["vanilla"])
    assert (found.models, found.model_settings) == (table1.models, table1.model_settings)
    assert found.judge_of("MMStar") == "official" and not benchmark("MMStar").needs_judge
    checks = (ROOT / "README.md").read_text().partition("first three checks to make:")[2]
    first, second = re.findall(r"retain (?:data|run) ([^`]+)`", checks)[:2]
    assert "MMStar" in first.split() and second.startswith("check --profile paper")


def test_averages_are_those_of_the_paper() -> None:
    for name in (name for name in experiment_names() if name.startswith("table") and name not in EFFICIENCY):
        header = (ROOT / f"results/reference/{name}.csv").read_text().splitlines()[0].split(",")
        columns = [name for group in load(name).groups for name in [*group.benchmarks, group.key]]
        assert columns == header[3:]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("titel", "x", r"unknown key 'titel' \(did you mean 'title'\?\); allowed are name, title, bench"),
        ("profiles.micro.frame", 8, r"unknown key 'profiles.micro.frame' \(did you mean 'frames'\?\)"),
        ("profiles.micro.rows.1.keeps", 1, r"unknown key 'profiles.micro.rows.1.keeps' \(did you mean 'keep'\?\)"),
        ("profiles.paper.judge.url", "x", r"unknown key 'profiles.paper.judge.url'.*allowed are base_url, model"),
        ("benchmarks.0", "MVBnch", r"benchmarks: .*'MVBnch'.* \(did you mean 'MVBench'\?\)"),
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
        ("profiles.micro.model_settings", {"Qwen": {"frames": 4}}, "model_settings: unknown name 'Qwen'.*micro-q"),
        ("profiles.micro.model_settings", {QWEN: {}}, "model_settings.micro-qwen2-vl: .*at least 1 item"),
        ("profiles.micro.model_settings", {QWEN: {"frames": 0}}, "micro-qwen2-vl.frames: 0 .*allowed are whole"),
        ("profiles.micro.model_settings", {QWEN: {"frames": True}}, "frames: True is not allowed here"),
        (
            "profiles.micro.model_settings",
            {QWEN: {"max_pixel": 1}},
            r"micro-qwen2-vl: unknown setting 'max_pixel' \(did you mean 'max_pixels'\?\); allowed are frames, rev",
        ),
        (
            "profiles.micro.model_settings",
            {QWEN: {"max_pixels": "big"}},
            "micro-qwen2-vl.max_pixels: 'big' is not allowed here; allowed are whole numbers from 1 or null",
        ),
        ("profiles.micro.model_settings", {QWEN: {"max_pixels": 1.5}}, "max_pixels: 1.5 is not allowed"),
        ("profiles.micro.model_settings", {QWEN: {"do_sample": 1}}, "do_sample: 1 is .*allowed are true and false"),
        ("profiles.micro.model_settings", {QWEN: {"temperature": "hot"}}, "temperature: 'hot' .*allowed are numbers"),
        ("profiles.micro.model_settings", {QWEN: {"method": "cnn"}}, "unknown setting 'method'"),
        ("profiles.micro.model_settings", {QWEN: {"nframe": 4}}, r"unknown setting 'nframe' \(did you mean 'frames'"),
        ("groups", [{"benchmarks": ["MVBench"]}], "keys 'benchmarks' and 'groups' exclude each other"),
        ("groups", [], "groups: .*at least 1 item"),
        ("groups", [{"benchmarks": ["MVBench"], "head": "x"}], r"key 'groups.0.head' \(did you mean 'header'\?\)"),
        ("groups", [{"benchmarks": ["MVBench"], "key": "mean"}], "groups.0.key: 'mean' is not allowed here"),
        ("groups", [{"benchmarks": ["MVBench"]}, {"benchmarks": "Video-MME"}], "groups: 'avg_pct' is given twice"),
        (
            "groups",
            [{"benchmarks": ["MVBench"]}, {"benchmarks": ["MVBench"], "key": "b_avg_pct"}],
            "groups: 'MVBench' is given twice",
        ),
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
        "import sys; from harness.experiments import load; load('table3'); load('table6', 'paper');"
        "print([m for m in ('torch', 'transformers', 'vlmeval', 'pandas', 'decord') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
