"""Where a checkpoint lies and what its folder must hold, told in one sentence before anything heavy loads."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from model_wrappers import hub
from model_wrappers.errors import UserError


def check_checkpoint(folder: Path) -> str:
    """Checks that a checkpoint's files are there and whole, as far as that is seen without loading them.

    Returns:
        ``model_type`` of its config.json, such as ``qwen2_vl``. VILA as it is published (``llava_llama``: a config at
        the root, three folders below) has a check of its own.

    Raises:
        UserError: names the folder and the file that is missing or broken.
    """
    if not folder.is_dir():
        raise UserError(f"No checkpoint folder {folder}.")
    config = read_json(folder, "config.json")
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{folder / 'config.json'} does not name a model_type.")
    if config["model_type"] == "llava_llama":
        from model_wrappers.vila.layout import check_vila_folder

        check_vila_folder(folder)
        return config["model_type"]
    check_weights(folder)
    if not (folder / "tokenizer.json").exists() and not _all_exist(folder, "vocab.json", "merges.txt"):
        raise UserError(f"Checkpoint folder {folder} has no tokenizer.json.")
    processor = read_json(folder, "processor_config.json") if (folder / "processor_config.json").exists() else {}
    if "image_processor" not in processor:  # where transformers 5 writes it; before, a file of its own
        read_json(folder, "preprocessor_config.json")
    if not _has_chat_template(folder, processor):
        raise UserError(f"Checkpoint folder {folder} has no chat template (chat_template.jinja or chat_template.json).")
    return config["model_type"]


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a checkpoint folder. Raises UserError where it is missing, or no object."""
    path = folder / name
    if not path.exists():
        raise UserError(f"Checkpoint folder {folder} has no {name}.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.")
    return content


def _all_exist(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


def check_weights(folder: Path) -> None:
    """Raises UserError unless a folder holds weights, in one file or in shards, all there and whole."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).exists():
            _check_weight_file(folder / single)
            return
        index = f"{single}.index.json"
        if (folder / index).exists():
            for shard in sorted(set(read_json(folder, index).get("weight_map", {}).values())):
                if not (folder / shard).exists():
                    raise UserError(f"Checkpoint folder {folder} has no {shard}, which its {index} names.")
                _check_weight_file(folder / shard)
            return
    raise UserError(
        f"Checkpoint folder {folder} has no weights: neither model.safetensors nor model.safetensors.index.json."
    )


def _check_weight_file(path: Path) -> None:
    """Finds a download cut short, or the pointer that git leaves without LFS, before loading does."""
    if path.suffix != ".safetensors":
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise UserError(f"{path} is not a safetensors file, or only the beginning of one.")
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a safetensors file: its header cannot be read.") from error
    if 8 + length + end != size:
        raise UserError(f"{path} has {size} bytes where its header promises {8 + length + end}: it is not whole.")


def _has_chat_template(folder: Path, processor: dict[str, Any]) -> bool:
    """The processor's own: a tokenizer's template is not used for messages with images."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    return "chat_template" in processor


def find_checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local folder as it is, a hub id from the hub's cache or, failing that, the hub.

    Args:
        name: path of a folder, or hub id such as ``Qwen/Qwen2-VL-7B-Instruct``.
        revision: branch or commit on the hub; None is ``main``.

    Raises:
        UserError: neither a folder nor to be had from the hub.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise UserError(f"No checkpoint folder {name}.")
    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    return hub.cached(name, revision, patterns=wanted) or hub.download(name, revision, patterns=wanted)
