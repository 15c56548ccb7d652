"""Where the data of the paper's benchmarks comes from. A light module: neither pandas nor VLMEvalKit is loaded.

Addresses and checksums of the image benchmarks are VLMEvalKit's own (`tsv_address`). The question files of NExT-QA and
ActivityNet-QA are pinned to a commit of the authors' repositories, and their sha256 is of the files in that commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model_wrappers.errors import UserError

PAPER = Path("results/data/paper")
"""Where the real data lies unless --data names another folder."""


@dataclass(frozen=True)
class File:
    """A file at a fixed address. `place`: its path in the data folder; `size`: bytes; `needed`: or only of use."""

    place: str
    url: str
    size: int
    sha256: str
    needed: bool = True


@dataclass(frozen=True)
class ByHand:
    """What nobody may hand on, or has put where a program may get it. `what`: in words; `page`: who gives it.

    `place`: its folder under the data folder; empty where only the downloaded questions tell. `archives`: the folder
    under the data folder into which it may be put as one archive instead, which `retain data` unpacks.
    """

    what: str
    page: str
    place: str = ""
    archives: str = ""


@dataclass(frozen=True)
class Source:
    """The published data of one benchmark.

    `questions`: its samples. `page`: where it is published. `tsv`: the stem of its TSV in `LMUData`, which VLMEvalKit
    knows the address of. `hub`: data set id and revision on the hub. `files`: files at addresses of their own.
    `by_hand`: what must be placed. `gigabytes`: about what the download takes, where it is known before the server is
    asked; `unpacked`: what is unpacked from it takes as much again.
    """

    benchmark: str
    questions: int
    page: str
    tsv: str = ""
    hub: tuple[str, str] | None = None
    files: tuple[File, ...] = ()
    by_hand: ByHand | None = None
    gigabytes: float | None = None
    unpacked: bool = False


_NEXT_MC = "https://raw.githubusercontent.com/doc-doc/NExT-QA/6b92588ab4496268fa1caab9414a8b998ee063c5/dataset/nextqa"
_NEXT_OE = "https://raw.githubusercontent.com/doc-doc/NExT-OE/a83f8f581191da07675e0fc83074e0dfcf907273/dataset/nextqa"
_ACTIVITYNET = (
    "https://raw.githubusercontent.com/MILVLG/activitynet-qa/2cf80aeb4e45955e53404e1716d3b9c0b1cbd72f/dataset"
)
_VIDOR = File(
    "NExT-QA/map_vid_vidorID.json",
    f"{_NEXT_MC}/map_vid_vidorID.json",
    331_540,
    "1955d89e7a175346faf8d4a582297ff349619231394f59fd7872f459ac8a8685",
    needed=False,  # only where the videos lie as VidOR lays them out
)
_NEXT_VIDEOS = ByHand(
    "the 1,000 test videos of NExT-QA (VidOR)",
    "https://github.com/doc-doc/NExT-QA (its README links the raw videos)",
    place="NExT-QA/NExTVideo",
    archives="NExT-QA",
)

SOURCES = {
    source.benchmark: source
    for source in (
        Source("MME", 2374, "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models", tsv="MME"),
        Source("MMStar", 1500, "https://github.com/MMStar-Benchmark/MMStar", tsv="MMStar"),
        Source("MMVet", 218, "https://github.com/yuweihao/MM-Vet", tsv="MMVet"),
        Source("SEEDBench_IMG", 14_232, "https://github.com/AILab-CVC/SEED-Bench", tsv="SEEDBench_IMG"),
        Source(
            "Video-MME",
            2700,
            "https://huggingface.co/datasets/lmms-lab/Video-MME",
            hub=("lmms-lab/Video-MME", "main"),
            gigabytes=95,
            unpacked=True,
        ),
        Source(
            "MVBench",
            4000,
            "https://huggingface.co/datasets/OpenGVLab/MVBench",
            hub=("OpenGVLab/MVBench", "video"),
            by_hand=ByHand(
                "videos of NTU RGB+D, which its licence keeps off the hub (task fine_grained_pose)",
                "https://rose1.ntu.edu.sg/dataset/actionRecognition/",
            ),
        ),
        Source(
            "MMBench-Video",
            1998,
            "https://huggingface.co/datasets/opencompass/MMBench-Video",
            hub=("opencompass/MMBench-Video", "main"),
            unpacked=True,
        ),
        Source(
            "NExT-QA-MC",
            8564,
            "https://github.com/doc-doc/NExT-QA",
            files=(
                File(
                    "NExT-QA/test.csv",
                    f"{_NEXT_MC}/test.csv",
                    1_385_657,
                    "cdf46de237b3b3b846ff0209ae1394ad559791b5a0de0bb8c78648f74da83542",
                ),
                _VIDOR,
            ),
            by_hand=_NEXT_VIDEOS,
        ),
        Source(
            "NExT-QA-OE",
            9178,
            "https://github.com/doc-doc/NExT-OE",
            files=(
                File(
                    "NExT-OE/test.csv",
                    f"{_NEXT_OE}/test.csv",
                    899_595,
                    "d9aa6022d66ab9bde814911cf357a2dd76a0fbabef16aa74752389d63817e522",
                ),
                File(
                    "NExT-OE/add_reference_answer_test.json",
                    f"{_NEXT_OE}/add_reference_answer_test.json",
                    166_056,
                    "3418ace242446b53292a3b4bd635bcb9dd3255d6f59852c228d5f564d4d277dd",
                    needed=False,  # second references, which the reader takes where they are
                ),
                _VIDOR,
            ),
            by_hand=_NEXT_VIDEOS,
        ),
        Source(
            "ActivityNet-QA",
            8000,
            "https://github.com/MILVLG/activitynet-qa",
            files=(
                File(
                    "ActivityNet-QA/test_q.json",
                    f"{_ACTIVITYNET}/test_q.json",
                    999_298,
                    "54d729564c3dfa0e795217f4df6023f7e43197fbb2b1fa4fd943ca65bee7eab8",
                ),
                File(
                    "ActivityNet-QA/test_a.json",
                    f"{_ACTIVITYNET}/test_a.json",
                    540_738,
                    "f8fffa0fd6d8dbdb788310c16fe7e6da0aa23758d811cc77b65060436acf97e5",
                ),
            ),
            by_hand=ByHand(
                "the 800 test videos of ActivityNet-QA (v_<video_name>.mp4, .mkv or .webm)",
                "http://activity-net.org/download.html",
                place="ActivityNet-QA/all_test",
                archives="ActivityNet-QA",
            ),
        ),
    )
}
"""The paper's benchmarks by the names of `harness.benchmarks.benchmark_names`."""


def source(name: str) -> Source:
    """The source of benchmark `name`. Raises UserError, listing the known ones, for any other."""
    if name not in SOURCES:
        raise UserError(f"where the data of {name!r} comes from is not known here; known are {', '.join(SOURCES)}")
    return SOURCES[name]


def command(name: str, data: Path) -> str:
    """What to type to get the data of benchmark `name` into the folder `data`."""
    where = "" if data.resolve() == PAPER.resolve() else f" --data {data}"
    return f"`retain data {name}{where}`"


def tsv_address(name: str) -> tuple[str, str]:
    """Address and md5 of an image benchmark's TSV, from VLMEvalKit's own tables. Loads VLMEvalKit (seconds)."""
    from harness.benchmarks import benchmark
    from harness.vlmevalkit import kit

    entry = benchmark(name)
    cls = getattr(kit(entry.module), entry.class_name)
    return cls.DATASET_URL[entry.kit_dataset], cls.DATASET_MD5[entry.kit_dataset]
