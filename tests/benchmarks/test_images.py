"""Image benchmarks opened from TSVs: the kit's messages, and the guards around how the kit reads its files."""

from __future__ import annotations

import base64
import io
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from harness.benchmarks import open_benchmark
from harness.benchmarks.opened import OpenBenchmark
from harness.vlmevalkit import data_root, kit, quiet
from model_wrappers.errors import SampleError, UserError
from tests.benchmarks import layouts

NAMES = list(layouts.IMAGES)


def pixels(path: str) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def picture_of(text: str) -> bytes:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return image.convert("RGB").tobytes()


def refused(name: str, data: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        open_benchmark(name, data, 8)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def kits_own(name: str, data: Path) -> Any:
    """The dataset as the kit builds it with nothing in its way."""
    with data_root(data), quiet():
        return kit("vlmeval.dataset").build_dataset(name)


@pytest.mark.parametrize("name", NAMES)
def test_message_is_what_the_kits_own_loop_asks(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    opened = open_benchmark(name, tmp_path, 8)
    asked: list[tuple[list[dict[str, str]], str]] = []
    base: Any = kit("vlmeval.vlm.base").BaseModel

    class Recorder(base):
        is_api = False

        def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
            asked.append((message, dataset or ""))
            return "A"

    with quiet():
        opened.dataset.img_root = str(tmp_path / "kits")
        kit("vlmeval.inference").infer_data(
            Recorder(), "recorder", str(tmp_path), opened.dataset, str(tmp_path / "out.pkl")
        )
    assert len(asked) == len(opened) == len(opened.rows)
    assert {dataset for _, dataset in asked} == {opened.entry.kit_dataset}
    for i, (message, _) in enumerate(asked):
        ours = opened.message(i)
        assert [part["value"] for part in ours if part["type"] == "text"] == [
            part["value"] for part in message if part["type"] == "text"
        ]
        kits = [part["value"] for part in message if part["type"] == "image"]
        assert [pixels(path) for path in opened.media(i)] == [pixels(path) for path in kits]
        assert opened.message(i, video_llm=False) == ours and opened.problem(i) is None


@pytest.mark.parametrize("name", NAMES)
def test_entry_modality_and_clusters(name: str, tmp_path: Path) -> None:
    layouts.WRITERS[name](tmp_path)
    opened = open_benchmark(name, tmp_path, 3)
    assert opened.modality == opened.entry.modality == "image"
    dataset = kit("vlmeval.dataset")
    assert dataset.DATASET_MODALITY(opened.entry.kit_dataset) == "IMAGE"
    shown = list(opened.rows["image"])
    assert len(opened.clusters) == len(opened)
    for i, one in enumerate(shown):
        for j, other in enumerate(shown):
            assert (opened.clusters[i] == opened.clusters[j]) == (one == other)
    assert len(set(opened.clusters)) == (14 if name == "MME" else 4)


def test_a_model_with_a_prompt_of_its_own_gets_the_pictures(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path)
    opened = open_benchmark("MMStar", tmp_path, 8)
    prompts: Any = kit("vlmeval.vlm.qwen2_vl.prompt").Qwen2VLPromptMixin

    class Model(prompts):
        pass

    model = Model()
    model.set_dump_image(opened.dump_image)
    assert model.use_custom_prompt("MMStar")
    message = model.build_prompt(opened.rows.iloc[2], dataset="MMStar")
    assert message[0] == {"type": "image", "value": opened.media(2)[0]}
    assert pixels(opened.media(2)[0]) == picture_of(layouts.picture(2))


# --- the local file


def test_a_local_file_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = layouts.mmstar(tmp_path)
    before = path.read_bytes()
    fetched: list[str] = []

    def fetch(url: str, filename: str, **_: Any) -> None:
        fetched.append(url)
        Path(filename).write_bytes(b"index\tquestion\tanswer\nsomething else")

    monkeypatch.setattr(urllib.request, "urlretrieve", fetch)
    opened = open_benchmark("MMStar", tmp_path, 8)
    assert path.read_bytes() == before and fetched == [] and len(opened) == 4
    assert opened.source == {
        "file": "MMStar.tsv",
        "md5": kit("vlmeval.smp").md5(str(path)),
        "official": False,
    }
    with pytest.raises(KeyError):  # no column `image` in what it had downloaded
        kits_own("MMStar", tmp_path).data["image"]
    assert len(fetched) == 1 and path.read_bytes() != before


def test_another_file_is_another_digest(tmp_path: Path) -> None:
    rows = [layouts.choice_row(i) for i in range(3)]
    digests = set()
    for change in ({}, {"question": "Which colour?"}, {"image": layouts.picture(9)}, {"answer": "A"}):
        layouts.mmstar(tmp_path, [*rows[:2], {**rows[2], **change}])
        digests.add(open_benchmark("MMStar", tmp_path, 8).digest)
    layouts.mmstar(tmp_path, rows)
    digests.add(open_benchmark("MMStar", tmp_path, 8).digest)  # the first again
    assert len(digests) == 4


def test_a_converted_copy_of_an_older_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = layouts.mmstar(tmp_path)
    old = pd.read_csv(path, sep="\t").drop(columns="image").assign(question="Old?", image_path="x.png")
    old.to_csv(path.with_name("MMStar_local.tsv"), sep="\t", index=False)
    monkeypatch.setattr(kit("vlmeval.dataset.image_base"), "file_size", lambda *_: 2.0)  # gigabytes
    monkeypatch.setattr(kit("vlmeval.dataset.image_mcq").ImageMCQDataset, "DATASET_MD5", {})
    assert set(kits_own("MMStar", tmp_path).data["question"]) == {"Old?"}
    assert "Old?" not in set(open_benchmark("MMStar", tmp_path, 8).rows["question"])


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    refused(
        "MME",
        tmp_path,
        str(tmp_path / "LMUData" / "MME.tsv"),
        f"does not exist; `retain data MME --data {tmp_path}`",
        "https://",
    )


# --- pictures


def test_a_picture_changes_with_the_file(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path, [layouts.choice_row(0)])
    old = open_benchmark("MMStar", tmp_path, 8)
    first = old.media(0)[0]
    kits_first = old.dataset.dump_image(old.rows.iloc[0])[0]  # where the kit itself would keep it
    layouts.mmstar(tmp_path, [layouts.choice_row(0, image=layouts.picture(5))])
    opened = open_benchmark("MMStar", tmp_path, 8)
    assert opened.dataset.dump_image(opened.rows.iloc[0])[0] == kits_first
    assert pixels(kits_first) == picture_of(layouts.picture(0))  # the old one still
    assert pixels(opened.media(0)[0]) == picture_of(layouts.picture(5))
    assert pixels(first) == picture_of(layouts.picture(0))


def test_pictures_lie_where_the_run_says(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path / "data", [layouts.choice_row(0)])
    opened = open_benchmark("MMStar", tmp_path / "data", 8, pictures=tmp_path / "run")
    (path,) = opened.media(0)
    assert Path(path).is_relative_to(tmp_path / "run" / "MMStar")
    assert pixels(path) == picture_of(layouts.picture(0))
    assert not list((tmp_path / "data").rglob("*.png"))


def test_rows_with_one_image_path_and_two_pictures(tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, image_path="same.png") for i in range(2)]
    layouts.mmstar(tmp_path, rows)
    opened = open_benchmark("MMStar", tmp_path, 8)
    kits = [pixels(opened.dataset.dump_image(opened.rows.iloc[i])[0]) for i in range(2)]
    assert kits[0] == kits[1]  # the kit shows the first one twice
    assert [pixels(opened.media(i)[0]) for i in range(2)] == [picture_of(layouts.picture(i)) for i in range(2)]


def test_a_torn_picture_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.mmstar(tmp_path, [layouts.choice_row(0)])
    opened = open_benchmark("MMStar", tmp_path, 8)

    def torn(image: Any, path: Any, *_: Any) -> None:
        Path(path).write_bytes(base64.b64decode(layouts.picture(0))[:60])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            opened.media(0)
    assert not list((tmp_path / "LMUData" / "images").rglob("*.png"))
    assert pixels(opened.media(0)[0]) == picture_of(layouts.picture(0))


def test_many_threads_see_their_own_pictures(tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, image_path=f"{i % 2}.png") for i in range(24)]
    layouts.mmstar(tmp_path, rows)
    opened = open_benchmark("MMStar", tmp_path, 8)
    seen: dict[int, bytes] = {}

    def look(start: int) -> None:
        for i in range(start, 24, 4):
            time.sleep(0.001)
            seen[i] = pixels(opened.media(i)[0])

    threads = [threading.Thread(target=look, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {i: picture_of(layouts.picture(i)) for i in range(24)}


def short_picture() -> str:
    """An image whose base64 has no more than 64 characters."""
    content = io.BytesIO()
    Image.new("L", (1, 1), 200).save(content, "GIF")
    text = base64.b64encode(content.getvalue()).decode()
    assert len(text) <= 64
    return text


def test_a_short_picture_is_a_picture(tmp_path: Path) -> None:
    layouts.tsv(tmp_path, "TinyImages", [layouts.choice_row(0), layouts.choice_row(1, image=short_picture())])
    with pytest.raises(AssertionError):  # taken for the index of a row
        kits_own("TinyImages", tmp_path)
    opened = open_benchmark("TinyImages", tmp_path, 8)
    assert pixels(opened.media(1)[0]) == picture_of(short_picture())
    assert pixels(opened.media(0)[0]) == picture_of(layouts.picture(0))


def test_the_index_of_another_row_is_still_its_picture(tmp_path: Path) -> None:
    layouts.mmstar(tmp_path, [layouts.choice_row(7), layouts.choice_row(8, image="7")])
    opened = open_benchmark("MMStar", tmp_path, 8)
    assert pixels(opened.media(1)[0]) == picture_of(layouts.picture(7))
    assert opened.clusters[0] == opened.clusters[1]


# --- texts


@pytest.mark.parametrize("text", ["None", "N/A", "007", "=1+1", "1.50"])
def test_options_and_answers_stay_as_they_are_written(text: str, tmp_path: Path) -> None:
    rows = [layouts.choice_row(i, A=text, C="3", D="") for i in range(2)]
    layouts.tsv(tmp_path, "Odd", rows)
    opened = open_benchmark("Odd", tmp_path, 8)
    assert f"Options:\nA. {text}\nB. green\nC. 3\nPlease" in opened.message(0)[-1]["value"]
    if text != "=1+1":
        kits = kits_own("Odd", tmp_path)
        assert f"A. {text}\n" not in kits.build_prompt(0)[-1]["value"]


# --- bad data


@pytest.mark.parametrize(
    ("name", "column"),
    [("MME", "category"), ("MME", "image_path"), ("MMStar", "B"), ("MMVet", "answer"), ("SEEDBench_IMG", "question")]
    + [(name, "image") for name in NAMES],
)
def test_a_tsv_without_a_column(name: str, column: str, tmp_path: Path) -> None:
    path = layouts.WRITERS[name](tmp_path)
    pd.read_csv(path, sep="\t", keep_default_na=False).drop(columns=column).to_csv(path, sep="\t", index=False)
    refused(name, tmp_path, str(path), f"no column '{column}'")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda d: layouts.mme(d, layouts.mme_pair(0, answers=["Yes", "no"])),
            ["MME.tsv, row 2", "'no'", "Yes and No"],
        ),
        (lambda d: layouts.mme(d, layouts.mme_pair(0, "colour")), ["MME.tsv, row 1", "'colour'", "existence"]),
        (lambda d: layouts.mmstar(d, [layouts.choice_row(0, "E")]), ["MMStar.tsv, row 1", "answer 'E'"]),
        (lambda d: layouts.mmstar(d, [layouts.choice_row(0, D="", answer="D")]), ["row 1", "answer 'D'"]),
        (lambda d: layouts.mmvet(d, [layouts.mmvet_row(0, category="rec,sport")]), ["row 1", "'sport'", "rec, ocr"]),
        (lambda d: layouts.mmstar(d, [layouts.choice_row(0, image="")]), ["MMStar.tsv, row 1", "no image"]),
        (lambda d: layouts.mmstar(d, [layouts.choice_row(0)] * 2), ["index 0 is given twice"]),
        (
            lambda d: layouts.mmstar(d, [layouts.choice_row(0, image_path="../../x.png")]),
            ["MMStar.tsv, row 1", "'../../x.png'", "leads out"],
        ),
    ],
)
def test_a_tsv_with_a_wrong_value(write: Callable[[Path], Path], words: list[str], tmp_path: Path) -> None:
    refused(write(tmp_path).stem, tmp_path, *words)


def test_a_tsv_that_is_none(tmp_path: Path) -> None:
    path = layouts.mmstar(tmp_path)
    path.write_bytes(b"")
    refused("MMStar", tmp_path, str(path), "is empty")
    path.write_bytes(b'index\tquestion\n"0\tnever closed')
    refused("MMStar", tmp_path, str(path), "cannot be read as TSV")
    path.write_bytes(b"\xff\xfe\x00garbage\xff" * 9)
    refused("MMStar", tmp_path, str(path))


def cut(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)[:-300]).decode()


@pytest.mark.parametrize(
    "bad", [base64.b64encode(b"no picture " * 20).decode(), "x" * 99, "short", cut(layouts.picture(0, 112))]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_picture_fails_only_its_own_sample(name: str, bad: str, tmp_path: Path) -> None:
    path = layouts.WRITERS[name](tmp_path)
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    table.loc[1, "image"] = bad
    table.to_csv(path, sep="\t", index=False)
    opened = open_benchmark(name, tmp_path, 8)
    with pytest.raises(SampleError, match=f"the image of question {opened.indices[1]} cannot be decoded") as error:
        opened.message(1)
    assert "\n" not in str(error.value) and opened.problem(1) == str(error.value)
    with pytest.raises(SampleError):
        opened.dump_image(opened.rows.iloc[1])
    others: list[int] = [i for i in range(len(opened)) if i != 1]
    assert all(opened.message(i) and opened.problem(i) is None for i in others)
    assert len(opened.digest) == 64 and len(opened.clusters) == len(opened)


def test_a_full_disk_is_no_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.mmstar(tmp_path)
    opened: OpenBenchmark = open_benchmark("MMStar", tmp_path, 8)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="MMStar: .*No space left on device"):
        opened.message(0)
