"""The only harness module that reaches into VLMEvalKit; it confines what the kit does to the process.

Importing this module is cheap. The kit itself (seconds, a gigabyte) is loaded by `kit`, through
`model_wrappers.families.kit.load_vlmeval`, which repairs what `import vlmeval` does to the process.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model_wrappers.errors import UserError


def kit(module: str = "vlmeval") -> Any:
    """VLMEvalKit's module of that dotted name, loaded behind the repairs of `load_vlmeval`."""
    from model_wrappers.families.kit import load_vlmeval

    load_vlmeval()
    return importlib.import_module(module)


def hub_cache(path: Path) -> Path:
    """The hub cache of data folder `path`. The kit's own cache search only accepts a folder of exactly this name."""
    return path.resolve() / "hub"


@contextlib.contextmanager
def data_root(path: str | Path) -> Iterator[Path]:
    """Point VLMEvalKit and huggingface_hub at the data folder `path` for the time of the `with`.

    `LMUData` becomes `<path>/LMUData` (made if absent: the kit falls back to the home folder otherwise), the hub cache
    `<path>/hub`, in the environment *and* in huggingface_hub's constants, which it read when it was imported.
    ModelScope is off. `huggingface_hub.login`, which MVBench calls and which would ask for a token, does nothing.
    Every hub request is forbidden: `retain data` downloads. Everything is put back at the end, also after an exception.

    Process-wide while it lasts, so not for two threads at once. Raises UserError if `path` cannot be written to.
    """
    root = Path(path).resolve()
    lmu, hub = root / "LMUData", hub_cache(root)
    try:
        lmu.mkdir(parents=True, exist_ok=True)
        hub.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the data folder {root} cannot be written to ({error.strerror}); choose another") from error
    import huggingface_hub
    from huggingface_hub import constants

    environment: dict[str, str | None] = {
        "LMUData": str(lmu),
        "HF_HUB_CACHE": str(hub),
        "HUGGINGFACE_HUB_CACHE": None,
        "VLMEVALKIT_USE_MODELSCOPE": "0",
        "HF_HUB_OFFLINE": "1",
    }
    fixed: dict[str, Any] = {"HF_HUB_CACHE": str(hub), "HUGGINGFACE_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": True}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(environment))
        for name, value in fixed.items():
            stack.enter_context(patched(constants, name, value))
        stack.enter_context(patched(huggingface_hub, "login", lambda *_, **__: None))
        yield root


def kit_modules(cls: type) -> list[Any]:
    """The kit's modules that a dataset class and its bases are written in: what they call by name is found there."""
    names = dict.fromkeys(base.__module__ for base in cls.__mro__)
    return [importlib.import_module(name) for name in names if name.startswith("vlmeval")]


@contextlib.contextmanager
def local_tsv(cls: Any, name: str, path: Path, read: Callable[[Callable[[str], Any]], Any]) -> Iterator[None]:
    """The surroundings in which the image dataset class `cls` opens its data set `name` from the TSV at `path`.

    The file is used as it is: its md5 counts as the right one (the kit would download over it), nothing is downloaded,
    and no `<name>_local.tsv` of an earlier file is taken for it. `read(load)` makes its rows; it
    is given the kit's own `load`. Decoded pictures are put in place whole: the kit takes a torn one for readable.
    """
    local, load = str(path), kit("vlmeval.smp").load

    def refuse(url: str, *_: Any) -> None:
        raise UserError(f"{name}: VLMEvalKit would download {url}; get it and put it into {path.parent}")

    with contextlib.ExitStack() as stack:
        if path.is_file() and name in getattr(cls, "DATASET_MD5", {}):
            own = {**cls.DATASET_MD5, name: kit("vlmeval.smp").md5(local)}
            stack.enter_context(patched(cls, "DATASET_MD5", own))
        for module in kit_modules(cls):
            changes: dict[str, Any] = {
                "load": lambda file, *rest: read(load) if file == local else load(file, *rest),
                "file_size": lambda *_: 0.0,
                "download_file": refuse,
            }
            for attribute, value in changes.items():
                if hasattr(module, attribute):
                    stack.enter_context(patched(module, attribute, value))
        base = kit("vlmeval.dataset.image_base")
        base.decode_base64_to_image_file = _decode_whole
        yield


def _decode_whole(text: str, path: str, target_size: int = -1) -> None:
    """The kit's `decode_base64_to_image_file`, but the file appears when it is complete."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{os.getpid()}-{target.name}")  # the suffix decides the format
    try:
        kit("vlmeval.smp").decode_base64_to_image(text, target_size=target_size).save(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the kit's prints, progress bars, log lines and numpy warnings; what it raises still comes through."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def register_dataset(cls: type) -> type:
    """Make a dataset class known to the kit's DATASET_TYPE, DATASET_MODALITY and build_dataset. Idempotent."""
    dataset = kit("vlmeval.dataset")
    if cls not in dataset.DATASET_CLASSES:
        dataset.DATASET_CLASSES.append(cls)
        dataset.SUPPORTED_DATASETS.extend(cls.supported_datasets())  # type: ignore[attr-defined]
        setattr(dataset, cls.__name__, cls)
    return cls


def register_datasets() -> None:
    """Register every dataset class that this package adds to the kit."""
    for module in ("harness.benchmarks.nextqa", "harness.benchmarks.activitynet_qa"):
        importlib.import_module(module)


@contextlib.contextmanager
def evaluation(cls: type, **formats: str) -> Iterator[None]:
    """The surroundings in which the `evaluate` of dataset class `cls` runs: files in fixed formats, and silence.

    The kit writes all results so far after each sample (time that grows with the square of their number); here once.
    """
    with contextlib.ExitStack() as stack:
        for module in [*kit_modules(cls), kit("vlmeval.dataset.utils.multiple_choice")]:
            if hasattr(module, "track_progress_rich"):
                stack.enter_context(patched(module, "track_progress_rich", _one_by_one))
        stack.enter_context(_environment({"PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv", **formats}))
        stack.enter_context(_own_letters())
        stack.enter_context(quiet())
        yield


@contextlib.contextmanager
def _own_letters() -> Iterator[None]:
    """The kit writes the replies to questions of letters to /tmp/<second>.tsv and reads them back, so that two runs
    that score in one second may take each other's, and leaves the file. Here it lies in a folder of its own.
    """
    with tempfile.TemporaryDirectory(prefix="retain-") as folder:
        place = os.path.relpath(os.path.realpath(folder), os.path.realpath("/tmp"))
        with patched(kit("vlmeval.dataset.utils.multiple_choice"), "timestr", lambda *_: f"{place}/replies"):
            yield


def _one_by_one(
    func: Callable[..., Any], tasks: Any, *_: Any, save: str | None = None, keys: Any = None, **__: Any
) -> list[Any]:
    """The kit's `track_progress_rich` in one thread: `func` of each task, kept under `keys` in the file `save`."""
    results = []
    for task in tasks:
        arguments = task if isinstance(task, tuple | list | dict) else (task,)
        results.append(func(**arguments) if isinstance(arguments, dict) else func(*arguments))
    if save is not None:
        smp = kit("vlmeval.smp")
        known = smp.load(save) if Path(save).exists() else {}
        smp.dump({**known, **dict(zip(keys if keys is not None else [], results, strict=False))}, save)
    return results


@contextlib.contextmanager
def judge_installed(module: str, judge: object) -> Iterator[None]:
    """Have the dataset module `module` use `judge` (working(), generate(), fail_msg) wherever it builds a judge."""
    with patched(kit(module), "build_judge", lambda **_: judge):
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    try:
        for name, value in values.items():
            _set(name, value)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Have `owner` show `value` under `name` for the time of the `with`."""
    # Through the instance dict: huggingface_hub resolves its names lazily, and a restored lazy name must stay lazy.
    own = vars(owner)
    present, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if present:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
