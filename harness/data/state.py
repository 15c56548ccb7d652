"""How far the data of a benchmark is there, from the files alone: nothing is opened, unpacked or asked for.

Light: neither pandas, torch nor VLMEvalKit is loaded.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.data import manifest
from harness.data.hub import half, snapshot
from harness.data.sources import SOURCES, ByHand, Source, command, source
from harness.data.unpack import is_archive, whole
from harness.vlmevalkit import hub_cache
from model_wrappers.errors import UserError
from model_wrappers.hub import cached

VIDEOS = (".mp4", ".mkv", ".webm")


@dataclass(frozen=True)
class State:
    """What is there of a benchmark's data in the folder `data`.

    `lacks`: what `retain data` gets, in words. `packed`: folders whose archives are there and not unpacked, or only
    half; opening the benchmark unpacks them too. `by_hand`: what must be placed, and exactly where, a sentence each.
    `ahead`: what will have to be placed, where only the questions that are still to be downloaded tell what lacks.
    `extras`: what `retain data` would get besides. `folder`: where its files lie, or will.
    """

    benchmark: str
    data: Path
    status: Literal["present", "partial", "missing"]
    folder: Path
    lacks: tuple[str, ...] = ()
    packed: tuple[Path, ...] = ()
    by_hand: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    ahead: str = ""

    @property
    def sentence(self) -> str:
        """What is missing and what to do, in one sentence; empty where nothing is."""
        steps = []
        if self.lacks or self.packed:
            again = "goes on with it" if self.status == "partial" else "gets it"
            said = [*self.lacks, *(f"{folder} is not unpacked" for folder in self.packed)]
            steps.append(f"{', '.join(said)}, {command(self.benchmark, self.data)} {again}")
        steps += [*self.by_hand, *filter(None, [self.ahead])]
        return f"{self.benchmark}: {'; '.join(steps)}" if steps else ""


def state(name: str, data: Path) -> State:
    """How far the data of benchmark `name` is there in the folder `data`.

    Raises UserError for a benchmark that is none of the paper's, and for a question file that cannot be read.
    """
    known, data = source(name), Path(data).resolve()
    look = _tsv if known.tsv else _hub if known.hub else _files
    return look(known, data)


def missing(names: Iterable[str], data: Path) -> list[str]:
    """A sentence for each of the benchmarks `names`, of those that are the paper's, that cannot be opened as it is."""
    states = [state(name, data) for name in names if name in SOURCES]
    return [found.sentence for found in states if found.lacks or found.by_hand]


def archives(known: Source, data: Path) -> list[tuple[list[Path], Path]]:
    """The archives of a benchmark that are there, each with the folder that they are unpacked into."""
    found: list[tuple[list[Path], Path]] = []
    if known.hub:
        folder = snapshot(*known.hub, data)
        if folder is not None and known.unpacked:
            pickles = sorted((folder / "video_pkl").glob("*.pkl"))
            zips = sorted(folder.glob("video*.zip"))
            found = [(pickles, folder / "video"), (zips, folder / "video")]
            found += [(sorted(folder.glob("subtitle.zip")), folder / "subtitle")]
    elif known.by_hand and known.by_hand.archives:
        target = data / known.by_hand.place
        begun = any(target.with_name(f"{target.name}{end}").exists() for end in (".part", ".unpacked.json"))
        if begun or not target.is_dir():  # videos that were placed as files stay as they are
            folder = data / known.by_hand.archives
            placed = sorted(folder.iterdir()) if folder.is_dir() else []
            found = [([path for path in placed if is_archive(path)], target)]
    return [(paths, target) for paths, target in found if paths]


def _tsv(known: Source, data: Path) -> State:
    path = data / "LMUData" / f"{known.tsv}.tsv"
    if path.is_file():
        wrong = manifest.fault(data, known.benchmark)
        return _state(known, data, path.parent, "partial" if wrong else "present", [wrong] if wrong else [])
    if path.with_name(f"{path.name}.part").exists():
        return _state(known, data, path.parent, "partial", [f"{path.name} is not all there"])
    return _state(known, data, path.parent, "missing", [f"{path} is not there"])


def _hub(known: Source, data: Path) -> State:
    assert known.hub is not None
    folder = snapshot(*known.hub, data)
    if folder is None:
        lacks = [f"{known.hub[0]} is not in {data / 'hub'}"]
        return _state(known, data, data / "hub", "missing", lacks, ahead=_ahead(known))
    lacks = [wrong] if (wrong := manifest.fault(data, known.benchmark) or _cut_short(known, data)) else []
    broken = _broken(known, data)
    lacks = [f"{broken} is no whole zip file"] if broken and not lacks else lacks
    packed = [target for paths, target in archives(known, data) if not broken and not whole(paths, target)]
    by_hand = [] if lacks or known.by_hand is None else _placed_in_snapshot(known.by_hand, folder)
    status = "partial" if lacks or packed or by_hand else "present"
    return _state(known, data, folder, status, lacks, by_hand, packed=packed, ahead=_ahead(known) if lacks else "")


def _ahead(known: Source) -> str:
    if known.by_hand is None:
        return ""
    return (
        f"{known.by_hand.what} must be placed by hand afterwards: get them from {known.by_hand.page}; where exactly is "
        "told when the rest is there"
    )


def _cut_short(known: Source, data: Path) -> str | None:
    """Whether the hub's own list of the files, which huggingface_hub keeps in its cache, has one that is not there, or
    a file there is half downloaded: by another program, since what `retain data` got has a manifest.
    """
    assert known.hub is not None
    if cached(*known.hub, kind="dataset", cache=hub_cache(data)) is None:
        return "its download was not finished"
    if not manifest.place(data, known.benchmark).is_file() and half(known.hub[0], "dataset", hub_cache(data)):
        return "its download was not finished"
    return None


def _broken(known: Source, data: Path) -> Path | None:
    """The first zip file without an end, as a copy leaves one that is cut short."""
    paths = (path for paths, _ in archives(known, data) for path in paths if path.suffix == ".zip")
    return next((path for path in paths if not zipfile.is_zipfile(path)), None)


def _placed_in_snapshot(wanted: ByHand, folder: Path) -> list[str]:
    """MVBench: its questions name videos by folder; the hub may not have all of them."""
    content = _json(folder / "test.json")
    missing: dict[str, list[str]] = {}
    try:
        for task, items in content["meta"].items():
            home = folder / content["root"][task]
            gone = sorted({item["video"] for item in items if not (home / item["video"]).is_file()})
            if gone:
                missing.setdefault(str(home), []).extend(gone)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'test.json'} is not MVBench's: it lacks {error}") from error
    return [
        f"{len(names)} videos are not there ({names[0]} is the first; the hub lacks {wanted.what}): get them from "
        f"{wanted.page} and put them into {home}"
        for home, names in missing.items()
    ]


def _files(known: Source, data: Path) -> State:
    absent = [file for file in known.files if not (data / file.place).is_file()]
    gone = [file for file in absent if file.needed]
    lacks = [f"{data / file.place} is not there" for file in gone]
    if not gone and (wrong := manifest.fault(data, known.benchmark)):
        lacks = [wrong]
    assert known.by_hand is not None
    folder = data / known.by_hand.place
    broken = _broken(known, data)
    packed = [target for paths, target in archives(known, data) if not broken and not whole(paths, target)]
    by_hand = [f"{broken} is no whole zip file: put it there again"] if broken else []
    if not packed and not broken:
        missing = _videos_missing(known, data) if not gone else []
        if gone and not folder.is_dir():
            by_hand = [_place(known.by_hand, data)]
        elif missing:
            by_hand = [_place(known.by_hand, data, f"{len(missing)} of its videos ({missing[0]}.mp4 is the first)")]
    anything = len(absent) < len(known.files) or folder.is_dir()
    status: Any = "present" if not (lacks or by_hand or packed) else "partial" if anything else "missing"
    extras = [file.place for file in absent if not file.needed]
    return _state(known, data, data / known.files[0].place.split("/")[0], status, lacks, by_hand, extras, packed)


def _place(wanted: ByHand, data: Path, what: str = "") -> str:
    first, them = (what, wanted.what) if what else (wanted.what, "them")
    return (
        f"{first} must be placed by hand: get {them} from {wanted.page} and put them into {data / wanted.place}, "
        f"or their archive (zip, tar) into {data / wanted.archives}"
    )


def _videos_missing(known: Source, data: Path) -> list[str]:
    """The videos that the questions ask about and that are in none of the places where they are looked for."""
    questions = data / known.files[0].place
    if known.benchmark == "ActivityNet-QA":
        try:
            wanted: dict[str, list[str]] = {f"v_{entry['video_name']}": [] for entry in _json(questions)}
        except (KeyError, TypeError) as error:
            raise UserError(f"{questions} must be a list of entries with the key video_name") from error
        homes = [questions.parent / "all_test", questions.parent]
    else:
        maps = [data / home / "map_vid_vidorID.json" for home in ("NExT-QA", "NExT-OE")]
        vidor: dict[str, str] = next((_json(path) for path in maps if path.is_file()), {})
        try:
            with questions.open(newline="", encoding="utf-8") as file:
                names = {row["video"] for row in csv.DictReader(file)}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise UserError(f"{questions} cannot be read as csv with a column 'video' ({error})") from error
        wanted = {name: [vidor[name]] if name in vidor else [] for name in names}
        homes = [data / home / "NExTVideo" for home in ("NExT-QA", "NExT-OE")]
    return sorted(
        name
        for name, others in wanted.items()
        if not any((home / f"{each}{end}").is_file() for home in homes for each in (name, *others) for end in VIDEOS)
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error


def _state(
    known: Source,
    data: Path,
    folder: Path,
    status: Any,
    lacks: Any = (),
    by_hand: Any = (),
    extras: Any = (),
    packed: Any = (),
    ahead: str = "",
) -> State:
    targets = tuple(dict.fromkeys(packed))
    return State(known.benchmark, data, status, folder, tuple(lacks), targets, tuple(by_hand), tuple(extras), ahead)
