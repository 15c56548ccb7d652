"""Models by name, here and in VLMEvalKit: its own loops and its own runner answer as the family does."""

from __future__ import annotations

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import models
from harness.models import (
    Catalogue,
    model_info,
    model_names,
    open_model,
    parse_model,
    register_in_vlmevalkit,
    run_vlmevalkit,
)
from harness.vlmevalkit import data_root, kit
from model_wrappers.errors import UserError
from model_wrappers.families import FAMILIES
from model_wrappers.registry import method
from tests.benchmarks import layouts
from tests.families.media import picture
from tests.tiny import tiny_qwen2_vl

MODEL = str(tiny_qwen2_vl())
SHORT: dict[str, Any] = {"max_new_tokens": 12, "min_pixels": 84 * 84, "max_pixels": 84 * 84, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MVBench and Video-MME, and a small MMStar."""
    folder = tmp_path_factory.mktemp("data")
    layouts.mvbench(folder)
    layouts.video_mme(folder)
    (folder / "LMUData").mkdir(exist_ok=True)
    rows = []
    for number in range(2):
        image = Path(picture(folder / f"{number}.png", seed=number)).read_bytes()
        options = {"A": "red", "B": "blue", "C": "green", "D": "none"}
        rows.append({"index": number, "question": "Which?", "image": base64.b64encode(image).decode(), **options})
    pd.DataFrame(rows).assign(answer="A", category="colour").to_csv(
        folder / "LMUData" / "Colours.tsv", sep="\t", index=False
    )
    return folder


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model never stops by itself: the table's entry for it says when, as the micro model's does."""
    folder = str(tiny_qwen2_vl(seed=5))  # one whose answers to the questions below differ
    monkeypatch.setitem(models._KNOWN, "tiny", models.ModelInfo("tiny", "qwen2_vl", folder, None, SHORT))
    monkeypatch.setenv("PRED_FORMAT", "tsv")  # a sheet cannot hold the control characters that a random model utters


def test_the_table_of_models() -> None:
    micro = ["micro-qwen2-vl", "micro-llava-onevision", "micro-vila"]
    assert model_names() == [
        *micro,
        "Qwen2-VL-2B-Instruct",
        "Qwen2-VL-7B-Instruct",
        "llava-onevision-qwen2-0.5b-ov-hf",
        "llava-onevision-qwen2-7b-ov-hf",
        "Llama-3-VILA1.5-8b",
        "Llama-3-VILA1.5-8B-Fix",
    ]
    for name in model_names()[3:]:
        assert model_info(name).family in FAMILIES
        assert model_info(name).path_or_hub_id.endswith(f"/{name}")
    large = model_info("Qwen2-VL-7B-Instruct")
    assert (large.path_or_hub_id, large.family) == ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl")
    assert large.revision is not None and len(large.revision) == 40
    with pytest.raises(UserError, match="Unknown model 'Qwen-VL': known are micro-qwen2-vl, micro-llava-onevision, "):
        model_info("Qwen-VL")


def test_names_are_parsed() -> None:
    info, cut = parse_model("Qwen2-VL-7B-Instruct+fastv:layer=2@0.25")
    assert info.name == "Qwen2-VL-7B-Instruct"
    assert cut == {"method": method("fastv", layer=2), "keep": 0.25}
    assert parse_model(MODEL) == (model_info(MODEL), {})
    for name, said in (
        ("Qwen2-VL-7B-Instruct+slowv@0.5", "unknown method 'slowv'"),
        ("Qwen2-VL-7B-Instruct+uniform@1.5", "1.5"),
        ("nowhere+uniform@0.5", "Unknown model 'nowhere'"),
    ):
        with pytest.raises(UserError, match=said):
            parse_model(name)


def test_settings_go_over_the_defaults(short_answers: None) -> None:
    model = open_model("tiny+first_layer_attention@0.5", max_new_tokens=3, attn_implementation="eager")
    assert (model.method, model.keep) == (method("first_layer_attention"), 0.5)
    assert (model.max_new_tokens, model.min_pixels) == (3, 84 * 84)
    assert model.model.config._attn_implementation == "eager"
    with pytest.raises(UserError, match="tiny has no setting 'pixels'; known: method, keep"):
        open_model("tiny", pixels=5)


def test_the_catalogue_parses_and_does_not_list(short_answers: None) -> None:
    catalogue = register_in_vlmevalkit()
    size = len(catalogue)
    assert register_in_vlmevalkit() is catalogue
    for module in ("config", "inference", "inference_video", "inference_mt", "run", "tools"):
        assert kit(f"vlmeval.{module}").supported_VLM is catalogue
    assert "tiny+uniform@0.25" in catalogue and "tiny" in catalogue and MODEL in catalogue
    assert "Qwen2-VL-7B-Instruct+cnn@0.1" in catalogue
    for name in ("tiny+uniform@2", "tiny+nothing@0.5", "nowhere+uniform@0.5", 7):
        assert name not in catalogue
        assert catalogue.get(name) is None
    with pytest.raises(KeyError):
        catalogue["nowhere"]
    own = catalogue["Qwen2-VL-7B-Instruct"]
    assert own.func is kit("vlmeval.vlm").Qwen2VLChat  # the kit's entries are not touched
    assert len(catalogue) == size
    built = catalogue["tiny+uniform@0.25"](use_vllm=False)
    assert (built.method, built.keep, built.max_new_tokens) == (method("uniform"), 0.25, 12)


@pytest.mark.parametrize("name", ["tiny+random@0.25", "tiny+fastv:layer=2@0.25", "tiny"])
def test_the_kits_video_loop_by_name(name: str, data: Path, tmp_path: Path, short_answers: None) -> None:
    register_in_vlmevalkit()
    with data_root(data):
        dataset = kit("vlmeval.dataset").supported_video_datasets["MVBench_MP4_8frame"]()
        messages = [dataset.build_prompt(position, video_llm=True) for position in range(len(dataset.data))]
        result_file = str(tmp_path / "answers.pkl")  # a sheet would change some of them
        kit("vlmeval.inference_video").infer_data_job_video(name, str(tmp_path), name, dataset, result_file)
    result = pd.read_pickle(result_file)
    model = open_model(name, nframe=8)
    answers = [model.generate(copy.deepcopy(message), dataset="MVBench_MP4") for message in messages]
    assert list(result["prediction"]) == answers
    assert len(set(answers)) > 1  # the answers depend on what is asked


def test_the_runner_scores_videos_and_images(data: Path, tmp_path: Path, short_answers: None) -> None:
    name = "tiny+uniform@0.5"
    argv = ["--model", name, "--data", "Video-MME_8frame", "Colours", "--work-dir", str(tmp_path)]
    before = sys.argv
    with data_root(data):
        assert run_vlmevalkit([*argv, "--judge", "exact_matching", "--judge-key", "very-secret"]) == 0
    assert sys.argv is before
    status = json.loads((tmp_path / name / "status.json").read_text())
    assert set(status["datasets"]) == {"Video-MME_8frame", "Colours"}
    written = [path for path in tmp_path.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()]
    assert written == [] and len(list((tmp_path / "logs").iterdir())) == 1
    assert len(pd.read_csv(tmp_path / name / f"{name}_Colours.tsv", sep="\t")["prediction"]) == 2


def test_the_runner_takes_a_path_and_a_config(data: Path, tmp_path: Path, short_answers: None) -> None:
    """The kit names files after models, so that a path would lead out of its work folder."""
    name = f"{MODEL}+uniform@0.5"
    config = tmp_path / "config.json"
    entry = {"max_new_tokens": 4, "device": "cpu", "min_pixels": 3136, "max_pixels": 3136}
    config.write_text(json.dumps({"model": {name: entry}, "data": {"MVBench_MP4_8frame": {}}}))
    with data_root(data):
        code = run_vlmevalkit(["--config", str(config), "--work-dir", str(tmp_path / "out"), "--mode", "infer"])
    assert code == 0
    folder = tmp_path / "out" / name.strip("/").replace("/", "-")
    assert len(list(folder.glob("*MVBench_MP4_8frame.tsv"))) == 1
    assert not list(Path(MODEL).parent.glob(f"{Path(MODEL).name}+*"))


def test_a_failure_that_the_runner_swallows_is_an_exit_status(tmp_path: Path, short_answers: None) -> None:
    layouts.mvbench(tmp_path / "data")
    for path in (tmp_path / "data").rglob("clip1.mp4"):
        path.write_bytes(b"no video")
    argv = ["--model", "tiny", "--data", "MVBench_MP4_8frame", "--work-dir", str(tmp_path / "out"), "--mode", "infer"]
    with data_root(tmp_path / "data"):
        assert run_vlmevalkit(argv) == 3
    status = json.loads((tmp_path / "out" / "tiny" / "status.json").read_text())
    assert "clip1.mp4 cannot be decoded" in status["datasets"]["MVBench_MP4_8frame"]["error_message"]


def test_the_judges_key_is_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    caplog.set_level("INFO", "vlmeval")
    build = kit("vlmeval.api").OpenAIWrapper
    build("gpt-4o-mini")
    assert "sk-very-secret" in caplog.text  # what there is to guard against
    caplog.clear()
    with models._without_secrets(models._secrets(None, "sk-admin")):
        build("gpt-4o-mini")
    assert "API Key: ***" in caplog.text and "sk-very-secret" not in caplog.text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "nowhere+uniform@0.5", "--data", "MVBench_MP4_8frame"], "Unknown model 'nowhere'"),
        (["--model", "Qwen2-VL-7B-Instruct+uniform@0", "--data", "MMStar"], "keep=0"),
        (["--model", "tiny"], "needs --model and --data"),
        (["--config", "absent.json"], "absent.json is not a config file"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    argv: list[str], said: str, tmp_path: Path, short_answers: None
) -> None:
    with pytest.raises(UserError, match=said):
        run_vlmevalkit([*argv, "--work-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_several_processes_need_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="WORLD_SIZE"):
        run_vlmevalkit(["--model", "tiny", "--data", "MMStar"])


def test_a_copy_of_the_catalogue_is_a_catalogue(short_answers: None) -> None:
    catalogue = Catalogue({"theirs": dict})
    assert catalogue["theirs"] is dict and list(catalogue) == ["theirs"]
    assert catalogue.file_name("a+b@1") == "a+b@1"
    alias = catalogue.file_name(f"{MODEL}+uniform@0.5")
    assert "/" not in alias and alias in catalogue
    assert not alias.startswith("-")
