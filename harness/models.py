"""The models by name: which family reads them, where they lie, and the settings they are measured with."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.vlmevalkit import kit, register_datasets
from model_wrappers import registry
from model_wrappers.errors import UserError
from model_wrappers.families import FAMILIES, family_class
from model_wrappers.families.checkpoint import check_checkpoint

MICRO = Path(__file__).parent / "micro" / "checkpoints"


@dataclass(frozen=True)
class ModelInfo:
    """One model, without loading it."""

    name: str
    family: str
    """``model_type`` of its config.json, a key of `model_wrappers.families.FAMILIES`."""
    path_or_hub_id: str
    revision: str | None = None
    """Commit (or `UNPINNED`) on the hub; None for a local folder, which its content identifies. An experiment's
    `model_settings` may say another."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Settings of the family's class, where a caller says nothing else."""


_PAPER = {"min_pixels": 504 * 504, "max_pixels": 504 * 504, "image_pixels": 1204 * 1204, "nframe": 8}
"""arXiv 2506.01097, section 4.1: 8 frames at 504 x 504 pixels are 4 x 18 x 18 = 1296 visual tokens, an image 1849."""
_FRAMES = {"nframe": 8}
"""The same section for the families whose images have one size: 8 x 196 (+ 1 newline) visual tokens."""
UNPINNED = "main"
"""Revision of a hub model whose commit nobody has verified yet: the branch, whatever it holds on the day."""

_KNOWN = {
    info.name: info
    for info in (
        ModelInfo(
            "micro-qwen2-vl",
            "qwen2_vl",
            str(MICRO / "micro-qwen2-vl"),
            None,
            {"min_pixels": 168 * 168, "max_pixels": 336 * 336, "nframe": 8, "max_new_tokens": 16},
        ),
        ModelInfo(
            "micro-llava-onevision",
            "llava_onevision",
            str(MICRO / "micro-llava-onevision"),
            None,
            {"max_pixels": 168 * 168, "nframe": 8, "max_new_tokens": 16},
        ),
        ModelInfo(
            "micro-vila",
            "retain_vila",
            str(MICRO / "micro-vila"),
            None,
            {"nframe": 8, "max_new_tokens": 16},
        ),
        ModelInfo(
            "Qwen2-VL-2B-Instruct",
            "qwen2_vl",
            "Qwen/Qwen2-VL-2B-Instruct",
            "895c3a49bc3fa70a340399125c650a463535e71c",
            _PAPER,
        ),
        ModelInfo(
            "Qwen2-VL-7B-Instruct",
            "qwen2_vl",
            "Qwen/Qwen2-VL-7B-Instruct",
            "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
            _PAPER,
        ),
        *(
            ModelInfo(name, "llava_onevision", f"llava-hf/{name}", revision, _FRAMES)
            for name, revision in (
                ("llava-onevision-qwen2-0.5b-ov-hf", "74dd0bf867a4cda7950c17663794267c60cf4b40"),
                ("llava-onevision-qwen2-7b-ov-hf", "0d50680527681998e456c7b78950205bedd8a068"),
            )
        ),
        *(
            ModelInfo(name, "llava_llama", f"Efficient-Large-Model/{name}", revision, _FRAMES)
            for name, revision in (
                # Of one public copy only, where the others' commits stand in many.
                ("Llama-3-VILA1.5-8b", "40f9b452727d7fd944f3f8a65274d87d76fc2676"),
                ("Llama-3-VILA1.5-8B-Fix", UNPINNED),
            )
        ),
    )
}


def model_names() -> list[str]:
    """The names in the table; any path of a checkpoint folder is a name too."""
    return list(_KNOWN)


def known_place(name: str) -> str | None:
    """Where the known model of that name lies, a folder or on the hub; None for any other. Nothing is looked at."""
    return _KNOWN[name].path_or_hub_id if name in _KNOWN else None


def on_hub(name: str) -> bool:
    """Whether the model of that name is taken from the hub, and not from a folder. Nothing is looked at."""
    return name in _KNOWN and _KNOWN[name].revision is not None


def model_family(name: str) -> str:
    """The family of a model, also of a known one whose checkpoint is not built. UserError as from `model_info`."""
    return (_KNOWN.get(name) or model_info(name)).family


def model_info(name: str) -> ModelInfo:
    """What is known of a model before it is loaded; its files are looked at where they are on this machine.

    Args:
        name: a known name, or the path of a checkpoint folder.

    Raises:
        UserError: no such model, or a file of its folder is missing or broken.
    """
    if name in _KNOWN:
        info = _KNOWN[name]
        if info.revision is None and not Path(info.path_or_hub_id).is_dir():
            raise UserError(f"{name} is not built: there is no folder {info.path_or_hub_id}; `make micro` makes it.")
        if info.revision is None:
            check_checkpoint(Path(info.path_or_hub_id))
        return info
    folder = Path(name).expanduser()
    if not folder.is_dir():
        known = ", ".join(model_names())
        raise UserError(f"Unknown model {name!r}: known are {known}, and the path of any checkpoint folder.")
    family = check_checkpoint(folder)
    if family not in FAMILIES:
        raise UserError(f"{folder} is a {family} checkpoint; families that can be cut: {', '.join(sorted(FAMILIES))}.")
    return ModelInfo(name, family, str(folder))


def checkpoint_folder(info: ModelInfo) -> Path | None:
    """The folder of a checkpoint on this machine: its own, or that in the hub's cache; None where it is not there."""
    folder = Path(info.path_or_hub_id).expanduser()
    if info.revision is None or folder.is_dir():
        return folder
    from model_wrappers.hub import cached

    return cached(info.path_or_hub_id, info.revision)


def parse_model(name: str) -> tuple[ModelInfo, dict[str, Any]]:
    """Takes ``Qwen2-VL-7B-Instruct+fastv:layer=2@0.25`` apart.

    Returns:
        The model, and ``{"method": ..., "keep": ...}``, which is empty where the name says neither.

    Raises:
        UserError: unknown model, method or field, or a keep outside (0, 1].
    """
    if name in _KNOWN or Path(name).expanduser().is_dir():
        return model_info(name), {}
    spec = registry.parse(name)
    return model_info(spec.model), {"method": spec.method, "keep": spec.keep}


def open_model(name: str, **settings: Any) -> Any:
    """Loads a model.

    Args:
        name: a known name or the path of a checkpoint folder, with or without a method and keep.
        settings: of the family's class (`model_wrappers.families.qwen2_vl.Qwen2VL`), over the model's defaults.

    Returns:
        An object with ``decode``, ``encode``, ``prepare``, ``answer``, ``generate`` and ``close``.

    Raises:
        UserError: unknown model or setting, or a file of the checkpoint is missing or broken, before any is loaded; or
            there is no room for the model.
    """
    info, cut = parse_model(name)
    family = family_class(info.family)
    allowed = [key for key in inspect.signature(family.__init__).parameters if key not in ("self", "model_path")]
    if unknown := sorted(set(settings) - set(allowed)):
        raise UserError(f"{info.name} has no setting {unknown[0]!r}; known: {', '.join(allowed)}.")
    asked = {"revision": info.revision, **info.defaults, **cut, **settings}
    try:
        return family(info.path_or_hub_id, **asked)
    except (RuntimeError, MemoryError) as error:
        from harness.sweep.device import is_out_of_memory, release, room

        if not is_out_of_memory(error):
            raise
        release(error)  # what was loaded so far
        raise UserError(f"{info.name} does not fit: {room(asked.get('device'))}") from None


class Catalogue(dict):  # type: ignore[type-arg]
    """VLMEvalKit's dictionary of models, which also has every name that `parse_model` reads: parsed, not listed.

    The kit's own entries stay: ``Qwen2-VL-7B-Instruct`` is its class, ``Qwen2-VL-7B-Instruct+vanilla`` is ours.
    """

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.aliases: dict[str, str] = {}
        """Names that can be folder names -> the names that `open_model` knows."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and self._ours(name))

    def __missing__(self, name: str) -> Any:
        if not self._ours(name):
            raise KeyError(name)
        return partial(open_model, self.aliases.get(name, name))

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def file_name(self, name: str) -> str:
        """A name for the kit to use: it names folders and files after its models, where a path would lead elsewhere."""
        if "/" not in name:
            return name
        alias = name.strip("./~").replace("/", "-")
        self.aliases[alias] = name
        return alias

    def _ours(self, name: str) -> bool:
        try:
            parse_model(self.aliases.get(name, name))
        except UserError:
            return False
        return True


def register_in_vlmevalkit() -> Catalogue:
    """Makes names such as ``Qwen2-VL-7B-Instruct+cnn@0.25`` usable wherever VLMEvalKit takes a model's name.

    Idempotent. Every module that holds the kit's ``supported_VLM`` gets the new dictionary; modules imported later find
    it in ``vlmeval.config``.
    """
    config = kit("vlmeval.config")
    found = config.supported_VLM
    if isinstance(found, Catalogue):
        return found
    catalogue = Catalogue(found)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "vlmeval" and getattr(module, "supported_VLM", None) is found:
            module.supported_VLM = catalogue  # type: ignore[attr-defined]
    return catalogue


def run_vlmevalkit(argv: list[str]) -> int:
    """VLMEvalKit's own runner (``vlmeval.run``) with our models and data sets, in this process.

    Args:
        argv: its arguments, such as ``["--model", "Qwen2-VL-7B-Instruct+cnn@0.25", "--data", "MMStar"]``. A checkpoint
            in a folder of your own is named by its path.

    Returns:
        0, or 3 if some model and data set gave no score: the runner itself would end as if nothing had happened.

    Raises:
        UserError: an unknown model, a checkpoint that is not whole, or more processes than there are GPUs.
    """
    if not _asks_for("help", argv) and "-h" not in argv and not _asks_for("config", argv):
        if lacking := [option for option in ("model", "data") if not _asks_for(option, argv)]:
            raise UserError(f"--{lacking[0]} is missing: VLMEvalKit's runner needs --model and --data, or --config.")
    import torch

    from model_wrappers.families.kit import kit_process

    if (wanted := int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))) > 1:
        if wanted > (gpus := torch.cuda.device_count()):
            raise UserError(f"WORLD_SIZE asks for {wanted} processes, which need a GPU each; here are {gpus}.")
    register_datasets()
    catalogue = register_in_vlmevalkit()
    runner = kit("vlmeval.run")
    with ExitStack() as undo:
        undo.enter_context(kit_process())
        undo.enter_context(_kit_logger())
        undo.callback(setattr, sys, "argv", sys.argv)
        undo.callback(setattr, runner, "build_dataset", runner.build_dataset)
        sys.argv = ["retain vlmeval", *argv]
        args = runner.parse_args()
        if not (args.config or (args.model and args.data)):
            raise UserError("VLMEvalKit's runner needs --model and --data, or --config.")
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="retain-vlmeval-"))
        secrets = _secrets(args.judge_key, args.key)
        sys.argv = [_redacted(word, secrets) for word in sys.argv]  # the runner writes it to its status file
        undo.enter_context(_without_secrets(secrets))
        models = _named_models(args, catalogue, Path(folder))
        runner.build_dataset = _build_dataset(runner.build_dataset)
        begun = datetime.now(UTC)
        runner.run_task(args)
        root = Path(os.environ.get("MMEVAL_ROOT", args.work_dir))
        done = [_done(root / model / "status.json", name, args.mode, begun) for model in models for name in args.data]
        return 0 if all(done) else 3


def _asks_for(option: str, argv: list[str]) -> bool:
    """Whether an option of argparse's is among the words of a command line; it may be cut short."""
    said = (word.partition("=")[0][2:] for word in argv if word.startswith("--"))
    return any(word and option.startswith(word) for word in said)


def _named_models(args: Any, catalogue: Catalogue, folder: Path) -> list[str]:
    """Checks the models of a command line or config file, and gives those that are paths names for the kit's files."""
    if args.base_url:
        return list(args.model or [])
    if not args.config:
        args.model = [_checked(name, catalogue) for name in args.model]
        return args.model
    try:
        config = json.loads(Path(args.config).read_text("utf-8"))
        models, data = dict(config["model"]), dict(config["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{args.config} is not a config file with `model` and `data`: {error!r}.") from error
    config = {"model": {}, "data": data}
    for name, entry in models.items():
        config["model"][name if "class" in entry else _checked(name, catalogue)] = entry
    args.config = str(folder / "config.json")
    Path(args.config).write_text(json.dumps(config), "utf-8")
    return list(config["model"])


def _checked(name: str, catalogue: Catalogue) -> str:
    if not dict.__contains__(catalogue, name):
        parse_model(name)
    return catalogue.file_name(name)


def _done(status: Path, dataset: str, mode: str, begun: datetime) -> bool:
    """Whether this run did what was asked: the runner writes its failures to its status file and nowhere else."""
    try:
        entry = json.loads(status.read_text("utf-8"))["datasets"][dataset]
        fresh = datetime.fromisoformat(entry["updated_at"]) >= begun
    except (OSError, ValueError, KeyError):
        return False
    failed = "error_message" in entry or entry.get("skip_reason", "mode_infer") != "mode_infer"
    return fresh and not failed and (mode == "infer" or bool(entry.get("metrics")))


def _build_dataset(build: Any) -> Any:
    """The runner hands its command line to the data sets, which the video ones of ms-vlmeval 0.0.20 refuse."""
    videos = kit("vlmeval.dataset").supported_video_datasets

    def build_dataset(name: str, **arguments: Any) -> Any:
        return videos[name]() if name in videos else build(name, **arguments)

    return build_dataset


def _secrets(*given: str | None) -> list[str]:
    """What must not be written anywhere: keys on the command line and in the environment."""
    named = [value for name, value in os.environ.items() if re.search("KEY|TOKEN|SECRET", name.upper())]
    return [secret for secret in {*given, *named} if secret and len(secret) >= 8 and secret != "sk-admin"]


def _redacted(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


@contextmanager
def _without_secrets(secrets: list[str]) -> Iterator[None]:
    """The kit logs the judge's key, to the terminal and to a file."""
    make = logging.getLogRecordFactory()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        message = record.getMessage()
        if (safe := _redacted(message, secrets)) != message:
            record.msg, record.args = safe, None
        return record

    logging.setLogRecordFactory(redacted)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


@contextmanager
def _kit_logger() -> Iterator[None]:
    """The runner gives the kit's logger a file and the terminal, once a process: the next run shall have its own."""
    logger = logging.getLogger("vlmeval")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    try:
        yield
    finally:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
