"""LLaVA-Video-178K (arXiv 2410.02713) as the hub's `lmms-lab/LLaVA-Video-178K` holds it.

Looked up: the dataset's README and file listings on the hub (its configs name `*oe*.json` and `*mc*.json`), and public
code that reads it.

    <duration>_<origin>_v0_1/<duration>_<origin>_{oe,mc}_v0_1_qa_processed.json      origin academic or youtube
    <duration>_{nextqa,activitynetqa}/<duration>_{nextqa,activitynetqa}_{oe,mc}_qa_processed.json
    each beside *_videos_<n>.tar.gz, to be unpacked where they lie (or all of them in the folder above)

with durations `0_30_s`, `30_60_s`, `1_2_m`, `2_3_m`. A file is a list of `{"id", "data_source", "video": path below the
folder, "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}, ...]}`. An entry
has several turns, each a question of its own about the video; each is asked alone here. Multiple-choice questions carry
their options (`A. ...`, a line each) and, as the last line, how to answer; their answers are `A.` or `A. Black.`.

Captions (`*_cap_*.json`), `*_perceptiontest` and `llava_hound` are not in the paper's mix and are left alone. The
copies of NExT-QA's and ActivityNet-QA's train splits stand for those where the official files are not there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.benchmarks.choices import parse_choice
from harness.compressor.sources import MIXES, Media, Read, Sample, Source, entries
from model_wrappers.errors import UserError

DURATIONS = {"0_30_s": "0-30 s", "30_60_s": "30-60 s", "1_2_m": "1-2 min", "2_3_m": "2-3 min"}
_FOLDER = re.compile(r"^(0_30_s|30_60_s|1_2_m|2_3_m)_(academic_v0_1|youtube_v0_1|nextqa|activitynetqa)$")
_FILE = re.compile(r"_(oe|mc)_(?:v0_1_)?qa_processed\.json$")
_OPTION = re.compile(r"^\(?([A-H])[.)]\s*(.+)$")
_PLACEHOLDER = re.compile(r"<(?:image|video)>\s*")
_NAMES = {"academic_v0_1": "LLaVA-Video-178K", "youtube_v0_1": "LLaVA-Video-178K"} | {
    "nextqa": "NExT-QA",
    "activitynetqa": "ActivityNet-QA",
}
DISTINCTIVE = 8
"""Letters from which on a video's file name says which one it is, wherever it lies."""


def find(files: list[Path]) -> list[Source]:
    """LLaVA-Video-178K, and the copies of NExT-QA and ActivityNet-QA beside it."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in files:
        folder, file = _FOLDER.match(path.parent.name), _FILE.search(path.name)
        if folder and file:
            name, kind = _NAMES[folder[2]], {"oe": "open-ended", "mc": "multiple choice"}[file[1]]
            part = f"{DURATIONS[folder[1]]}, {kind}" if name == "LLaVA-Video-178K" else kind
            found.setdefault(name, {}).setdefault(part, []).append(path)
    if "LLaVA-Video-178K" in found:  # all eight, so that one that is not there is told as lacking
        kinds = [f"{duration}, {kind}" for duration in DURATIONS.values() for kind in ("open-ended", "multiple choice")]
        found["LLaVA-Video-178K"] = {part: found["LLaVA-Video-178K"].get(part, []) for part in kinds}
    sources = []
    for name, parts in found.items():
        reads: dict[str, Read] = {part: partial(_read, name, paths) for part, paths in parts.items()}
        where = next(path for paths in parts.values() for path in paths).parent.parent
        sources.append(Source(name, "video", reads, MIXES["video"][name], str(where)))
    return sources


def _read(source: str, paths: list[Path], left_out: Counter[str]) -> Iterator[Sample]:
    for path in paths:
        choice = "_mc_" in path.name
        for number, entry in enumerate(entries(path, ("video", "conversations")), start=1):
            video = str(entry["video"])
            places = [path.parent / video, path.parent.parent / video]
            file = Media(next((place for place in places if place.is_file()), places[0]))
            for turn, (asked, answer) in enumerate(turns(entry["conversations"], f"{path}, entry {number}")):
                options: tuple[str, ...] = ()
                if choice:
                    options = options_in(asked)
                    answer = parse_choice(answer, options) or ""
                if not asked or not answer:
                    left_out["without a question or an answer that can be read"] += 1
                    continue
                name = f"{source}/{path.stem}/{number}.{turn}"
                question = asked.split("\nA. ")[0] if options else asked
                yield Sample(name, source, group_of(video), "video", file, question, asked, answer, options)


def turns(conversation: Any, where: str) -> list[tuple[str, str]]:
    """Questions with answers, in order, without the placeholder of the picture.

    Raises:
        UserError: it is no list of turns; `where` names the entry.
    """
    if not isinstance(conversation, list) or not all(
        isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in conversation
    ):
        raise UserError(f"{where}: conversations must be a list of turns, each with from and value")
    said = [turn for turn in conversation if turn["from"] != "system"]
    return [
        (_PLACEHOLDER.sub("", str(first["value"])).strip(), str(second["value"]).strip())
        for first, second in zip(said[::2], said[1::2], strict=False)
    ]


def options_in(question: str) -> tuple[str, ...]:
    """The texts of the lettered lines of a question, where the letters run A, B, C, ...; else nothing."""
    lines = [found for line in question.splitlines() if (found := _OPTION.match(line.strip()))]
    letters = "".join(found[1] for found in lines)
    return tuple(found[2].strip() for found in lines) if letters and letters == "ABCDEFGH"[: len(letters)] else ()


def group_of(video: str) -> str:
    """Which video a path is about: its file name where that is distinctive, since one video lies in several folders.

    `.../youcook2/101/zukEQgbWdsY/split_2.mp4` is a piece of the video of its folder; short names (`TDIW8.mp4`) count
    with their folders.
    """
    path = Path(video)
    if re.fullmatch(r"split_\d+", path.stem):
        path = path.parent
    else:
        path = path.with_suffix("")
    return path.name if len(path.name) >= DISTINCTIVE else path.as_posix()
