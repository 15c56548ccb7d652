"""Small training data on disk, in the layouts in which it is published; every question has a right answer."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.families.media import picture, video

DURATIONS = ("0_30_s", "30_60_s", "1_2_m", "2_3_m")
TAIL = "Please respond with only the letter of the correct answer."


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A file of one's own; pictures and videos that it names and that are not there are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, row in enumerate(rows):
        for key, make in (("video", video), ("image", picture)):
            if key in row and not (path.parent / row[key]).exists():
                (path.parent / row[key]).parent.mkdir(parents=True, exist_ok=True)
                make(path.parent / row[key], seed=number)
    return path


def clips(path: Path, count: int = 4, **changes: Any) -> Path:
    """A JSONL of `count` questions, each about a clip of its own."""
    return jsonl(
        path,
        [
            {"video": f"clips/{n}.mp4", "question": f"What is {n}?", "answer": "red", "id": f"q{n}", **changes}
            for n in range(count)
        ],
    )


def _conversation(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    said = []
    for number, (question, answer) in enumerate(pairs):
        said.append({"from": "human", "value": f"<image>\n{question}" if number == 0 else question})
        said.append({"from": "gpt", "value": answer})
    return said


def llava_video(folder: Path, entries: int = 2, durations: Sequence[str] = DURATIONS) -> Path:
    """LLaVA-Video-178K: for each duration one folder, an open-ended and a multiple-choice file; two turns an entry."""
    for number, duration in enumerate(durations):
        origin = ("academic", "youtube")[number % 2]
        home = folder / f"{duration}_{origin}_v0_1"
        place = "academic_source/NextQA/1015" if origin == "academic" else "liwei_youtube_videos/videos"
        (home / place).mkdir(parents=True)
        opens, choices = [], []
        for entry in range(entries):
            name = f"{place}/ytb_{duration}-{entry}.mp4"
            video(home / name, seed=10 * number + entry)
            common = {"id": f"{duration}-{entry}", "data_source": home.name, "video": name}
            pairs = [("What is it?", "It is a red bar."), ("Is it red?", "Yes.")]
            opens.append({**common, "conversations": _conversation(*pairs)})
            asked = f"What is seen?\nA. Black\nB. Silver\nC. Red\nD. Blue\n{TAIL}"
            choices.append({**common, "conversations": _conversation((asked, "B."), (asked, "C. Red."))})
        stem = f"{duration}_{origin}"
        (home / f"{stem}_oe_v0_1_qa_processed.json").write_text(json.dumps(opens))
        (home / f"{stem}_mc_v0_1_qa_processed.json").write_text(json.dumps(choices))
        (home / f"{stem}_v0_1_cap_processed.json").write_text(json.dumps(opens))
    return folder


def hub_nextqa(folder: Path) -> Path:
    """The copy of NExT-QA beside LLaVA-Video-178K."""
    home = folder / "0_30_s_nextqa"
    (home / "NextQA/NExTVideo/1202").mkdir(parents=True)
    video(home / "NextQA/NExTVideo/1202/3264772244.mp4")
    asked = f"how do they play\nA. roll it.\nB. tap it.\n{TAIL}"
    entry = {"id": "3264772244", "data_source": home.name, "video": "NextQA/NExTVideo/1202/3264772244.mp4"}
    rows = [{**entry, "conversations": _conversation((asked, "A. roll it."))}]
    (home / "0_30_s_nextqa_mc_qa_processed.json").write_text(json.dumps(rows))
    return folder


def next_qa(folder: Path, videos: Sequence[str] = ("3238737531", "4010069381"), split: str = "train") -> Path:
    """NExT-QA, multiple choice and open-ended."""
    base = {"frame_count": 12, "width": 112, "height": 84, "question": "what is the dog doing", "type": "DO"}
    options = {f"a{n}": text for n, text in enumerate(["runs", "sits", "eats", "sleeps", "barks"])}
    choice = [{"video": v, **base, "answer": 3, "qid": n, **options} for n, v in enumerate(videos)]
    opened = [{"video": v, **base, "answer": "sleeps", "qid": n} for n, v in enumerate(videos)]
    for name, rows in (("NExT-QA", choice), ("NExT-OE", opened)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with (folder / name / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for number, name in enumerate(videos):
        path = folder / "NExT-QA/NExTVideo/1164" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        video(path, seed=number)
    return folder


def activitynet(folder: Path, videos: Sequence[str] = ("1QIUV7WYKXg", "nw8MpBwL508"), split: str = "train") -> Path:
    """ActivityNet-QA."""
    home = folder / "ActivityNet-QA"
    (home / f"all_{split}").mkdir(parents=True, exist_ok=True)
    ids = [f"v_{name}_1" for name in videos]
    asked = [
        {"video_name": name, "question": "is the athlete wearing trousers", "question_id": i}
        for name, i in zip(videos, ids, strict=True)
    ]
    (home / f"{split}_q.json").write_text(json.dumps(asked))
    answers = [{"answer": "yes", "type": 3, "question_id": i} for i in ids]
    (home / f"{split}_a.json").write_text(json.dumps(answers))
    for number, name in enumerate(videos):
        video(home / f"all_{split}" / f"v_{name}.mp4", seed=number)
    return folder


def infinity_mm(folder: Path) -> Path:
    """Infinity-MM, stage 4: two tars, the synthetic one with an entry without a picture."""
    for part, count in (("gpt4_data/laion", 3), ("synthetic_data/all", 2)):
        home = folder / "Infinity-MM/stage4" / part
        home.mkdir(parents=True)
        with tarfile.open(home / "00000.tar", "w") as archive:
            for number in range(count):
                image = home / "picture.jpg"
                picture(image, seed=number // 2)  # the first two of a tar show the same
                pair = ("What colour is it?", "red"), ("And then?", "blue")
                entry = {"id": str(number), "source": "made", "conversations": _conversation(*pair)}
                _add(archive, f"{number:08}.json", json.dumps(entry).encode())
                _add(archive, f"{number:08}.jpg", image.read_bytes())
                image.unlink()
            if part.startswith("synthetic"):
                words = {"id": "9", "source": "made", "conversations": _conversation(("2 + 2?", "4"))}
                _add(archive, "00000009.json", json.dumps(words).encode())
    return folder


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
