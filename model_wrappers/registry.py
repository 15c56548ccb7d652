"""Methods by name, and specs such as `Qwen2-VL-7B-Instruct+fastv:layer=2@0.25`.

Names can be listed and checked without torch. Another package adds a method through the entry-point group
`retain.methods` (name = "package.module:Class").
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model_wrappers.errors import UserError
from model_wrappers.methods.base import Method

GROUP = "retain.methods"

_BUILT_IN = {
    "vanilla": "vanilla:Vanilla",
    "random": "random:Random",
    "uniform": "uniform:Uniform",
    "first_layer_attention": "first_layer_attention:FirstLayerAttention",
    "relevance": "relevance:Relevance",
    "cnn": "cnn:CNN",
    "fastv": "fastv:FastV",
    "pyramiddrop": "pyramiddrop:PyramidDrop",
    "sparsevlm": "sparsevlm:SparseVLM",
    "divprune": "divprune:DivPrune",
    "dart": "dart:DART",
    "visionzip": "visionzip:VisionZip",
    "prunevid": "prunevid:PruneVID",
    "fastvid": "fastvid:FastVID",
    "downsample": "downsample:Downsample",
    "fewer_frames": "fewer_frames:FewerFrames",
}

_registered: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Spec:
    """A model with a method: what one row of a table is."""

    model: str
    method: Method
    method_name: str
    fields: dict[str, Any]
    keep: float


def method_names() -> list[str]:
    """Every method that can be named, in the order of the built-in ones, then alphabetically."""
    others = {*_registered, *_entry_points()} - set(_BUILT_IN)
    return [*_BUILT_IN, *sorted(others)]


def register_method(name: str, cls: type[Method]) -> None:
    """Adds a method under a name.

    Raises:
        ValueError: if the name is taken by another class, or cannot stand in a spec.
    """
    if not name or set(name) & set("+:@,= /"):
        raise ValueError(f"{name!r} cannot be a method's name in a spec")
    if name in _BUILT_IN or _registered.get(name, cls) is not cls:
        raise ValueError(f"there is a method {name!r} already")
    _registered[name] = cls


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        UserError: an unknown name, or an entry point that does not load or gives no method.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(f"model_wrappers.methods.{module}"), attribute)
    if name in _registered:
        return _registered[name]
    point = _entry_points().get(name)
    if point is None:
        raise UserError(f"unknown method {name!r}, known are {', '.join(method_names())}")
    try:
        found = point.load()
    except Exception as error:  # whatever the other package's import raises
        raise UserError(f"method {name!r} ({point.value}) does not load: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method) and dataclasses.is_dataclass(found)):
        raise UserError(f"method {name!r} ({point.value}) is not a dataclass derived from Method")
    return found


def method(name: str, **fields: Any) -> Method:
    """A method by name, its fields checked.

    Raises:
        UserError: an unknown name, an unknown field, or a value of the wrong kind.
    """
    cls = method_class(name)
    hints = get_type_hints(cls)
    known = [field.name for field in _fields_of(cls)]
    for field, value in fields.items():
        if field not in known:
            allowed = f"its fields are {', '.join(known)}" if known else "it has none"
            raise UserError(f"method {name} has no field {field!r}: {allowed}")
        if not _fits(value, hints[field]):
            raise UserError(f"{name}: {field}={value!r}, allowed is {_kind(hints[field])}")
    return cls(**fields)


def parse(spec: str) -> Spec:
    """Reads `model`, or `model+method@keep`, or `model+method:field=value,field=value@keep`.

    A model alone is vanilla at 1.0.

    Raises:
        UserError: anything that does not read so.
    """
    head, plus, tail = spec.rpartition("+")
    if not plus:
        if "@" in spec:
            raise UserError(f"{spec!r} has a keep but no method: write model+method@keep")
        head, tail = spec, "vanilla@1"
    if not head:
        raise UserError(f"{spec!r} names no model: write model or model+method@keep")
    call, at, share = tail.rpartition("@")
    if not at:
        call, share = tail, "1" if tail == "vanilla" else ""
    try:
        keep = float(share)
    except ValueError:
        raise UserError(f"{spec!r}: after the method comes @keep, a number above 0 and at most 1") from None
    if not 0 < keep <= 1:
        raise UserError(f"{spec!r}: keep={share}, allowed is a number above 0 and at most 1")
    name, _, listed = call.partition(":")
    fields: dict[str, Any] = {}
    hints = get_type_hints(method_class(name))
    for part in filter(None, listed.split(",")):
        field, equals, text = part.partition("=")
        if not equals:
            raise UserError(f"{spec!r}: {part!r} is no field=value")
        if field in fields:
            raise UserError(f"{spec!r}: field {field!r} is given twice")
        fields[field] = _read(text, hints.get(field))
    if name == "vanilla" and keep != 1:
        raise UserError(f"{spec!r}: vanilla keeps every visual token, so its keep is 1")
    return Spec(head, method(name, **fields), name, fields, keep)


def format_spec(model: str, method: Method, keep: float, method_name: str | None = None) -> str:
    """The spec that `parse` reads back; fields at their defaults are left out."""
    name = method_name or method.name
    if name == "vanilla":
        return model
    listed = []
    for field in _fields_of(method):
        value = getattr(method, field.name)
        if value != field.default:
            listed.append(f"{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return f"{model}+{name}{':' if listed else ''}{','.join(listed)}@{keep:g}"


def settings_of(method: Method) -> dict[str, Any]:
    """A method's fields by name; `positions` is among them only where kept tokens are renumbered."""
    settings = {field.name: getattr(method, field.name) for field in _fields_of(method)}
    return settings if method.positions == "renumber" else {k: v for k, v in settings.items() if k != "positions"}


def _fields_of(method: Method | type[Method]) -> list[dataclasses.Field[Any]]:
    """A method's own fields, then those that every method has."""
    return sorted(dataclasses.fields(method), key=lambda field: bool(field.kw_only))


@cache
def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    choices = get_args(hint) or (hint,)
    if isinstance(value, bool) or value is None:
        return type(value) in choices
    if isinstance(value, int) and float in choices:
        return True
    return isinstance(value, tuple(choice for choice in choices if isinstance(choice, type)))


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return " or ".join(names.get(choice, str(choice)) for choice in get_args(hint) or (hint,))


def _read(text: str, hint: Any) -> Any:
    """A field's text as the value that its type asks for; left as text where it does not read so, for `method` to
    say."""
    choices = get_args(hint) if get_origin(hint) is not Literal else ()
    choices = choices or (hint,)
    if type(None) in choices and text.lower() == "none":
        return None
    if bool in choices and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in choices:
            try:
                return kind(text)
            except ValueError:
                continue
    return text
