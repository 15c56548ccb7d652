"""`retain flops`: what methods cost on one model and prompt, as a table, as JSON and from Python."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.flops.count import Count, UnknownInput, count
from harness.flops.shapes import shape_of
from harness.tables.layout import MISSING, ratio
from harness.tables.render import pipe_table
from model_wrappers.registry import Spec, format_spec, parse
from model_wrappers.shape import PromptSize, Shape

TERA, MEBI = 1e12, 2**20
SHOWN = {"image": "an image", "video": "a video"}
NOTES = (
    "TFLOPs (paper): arXiv 2506.01097, eq. 4 to 6: of the visual tokens in the language model, a multiply-add as one; "
    "of the choosing only its compressor's is counted.",
    "TFLOPs (exact): of every matrix product of the prefill, text, vision encoder, output head and the method's "
    "choosing included, a multiply-add as two, attention with its masked half, distances of all pairs as one product. "
    "Of it, vision and choosing apart.",
    "KV cache (MiB): of the visual tokens, after the prefill. Visual tokens by layer: that it works on; equivalent "
    "tokens: their mean.",
)


@dataclass(frozen=True)
class Line:
    """One method at one keep. count: None where there is nothing to count, for the reason that `lacking` gives."""

    spec: Spec
    count: Count | None
    lacking: str = ""


@dataclass(frozen=True)
class Report:
    """Counts of several methods on one model and prompt, vanilla first."""

    model: str
    shape: Shape
    prompt: PromptSize
    lines: tuple[Line, ...]


def report(model: str, prompt: PromptSize, methods: Sequence[str], keeps: Sequence[float]) -> Report:
    """Counts `methods`, each a spec such as `fastv:layer=2`, at every keep, or such as `fastv:layer=2@0.4` at its own.

    A method that is not defined for what the prompt shows, or of whose input too little is said, has a line without
    a count.

    Raises UserError for an unknown model, method or field, a keep outside (0, 1], or what `count` refuses.
    """
    shape = shape_of(model)
    specs = dict.fromkeys([format_spec("model", parse("model").method, 1.0), *_specs(methods, keeps)])
    return Report(model, shape, prompt, tuple(_line(shape, spec, prompt) for spec in map(parse, specs)))


def _line(shape: Shape, spec: Spec, prompt: PromptSize) -> Line:
    if why := spec.method.undefined(shape.family, prompt.media):
        return Line(spec, None, why)
    try:
        return Line(spec, count(shape, spec.method, spec.keep, prompt))
    except UnknownInput as error:
        return Line(spec, None, str(error))


def to_markdown(found: Report) -> str:
    """A table whose columns line up in a terminal, under the model and prompt, above what the columns mean."""
    whole = found.lines[0].count
    assert whole is not None, "vanilla is defined for everything"
    head = ["Method", "Retention", "Visual tokens by layer", "Equivalent tokens", "KV cache (MiB)"]
    head += ["TFLOPs (paper)", "of vanilla (%)", "TFLOPs (exact)", "of vanilla (%)", "Vision", "Choosing"]
    body = []
    for line in found.lines:
        one, named = line.count, [_name(line.spec), ratio(line.spec.keep)]
        if one is None:
            body.append([*named, *[MISSING] * (len(head) - len(named))])
            continue
        body.append(
            [
                *named,
                ", ".join(f"{len(list(same))} x {tokens}" for tokens, same in groupby(one.worked)),
                f"{one.equivalent_tokens:.1f}",
                f"{one.kv_bytes / MEBI:.1f}",
                *_tera(one.paper, whole.paper),
                *_tera(one.exact.total, whole.exact.total),
                _tera(one.exact.vision)[0],
                _tera(one.exact.scoring)[0],
            ]
        )
    prompt, decoder = found.prompt, found.shape.decoder
    shown = SHOWN[prompt.media]
    if prompt.size is not None:
        shown += f" of {prompt.size[0]} x {prompt.size[1]} pixels"
    title = (
        f"**{found.model}: {prompt.visual} visual tokens of {shown} in {prompt.pictures} pictures, "
        f"{prompt.text} text tokens ({prompt.instruction} after the visual ones), {prompt.response} to answer; "
        f"{decoder.layers} layers**"
    )
    notes = [f"- {note}" for note in (*NOTES, *_lacking(found))]
    return "\n".join([title, "", pipe_table(head, body, [False, *[True] * 10]), "", *notes]) + "\n"


def to_json(found: Report) -> str:
    """The same for machines: operations as numbers, tokens by layer as a list, both conventions by name."""
    lines = []
    for line in found.lines:
        spec = {"method": line.spec.method_name, "fields": line.spec.fields, "keep": line.spec.keep}
        if line.count is None:
            lines.append({**spec, "lacking": line.lacking})
            continue
        one = dataclasses.asdict(line.count)
        paper, exact = one.pop("paper"), one.pop("exact")
        lines.append({**spec, **one, "flops": {"paper": paper, "exact": {**exact, "total": line.count.exact.total}}})
    content = {
        "model": found.model,
        "shape": dataclasses.asdict(found.shape),
        "prompt": dataclasses.asdict(found.prompt),
        "lines": lines,
    }
    return json.dumps(content, indent=1) + "\n"


def _specs(methods: Sequence[str], keeps: Sequence[float]) -> Iterator[str]:
    for said in methods:
        if said == "vanilla":
            continue
        if "@" in said:
            yield f"model+{said}"
        else:
            yield from (f"model+{said}@{keep}" for keep in keeps)


def _name(spec: Spec) -> str:
    return format_spec("", spec.method, spec.keep, spec.method_name).removeprefix("+").partition("@")[0] or "vanilla"


def _tera(value: float | None, whole: float | None = None) -> list[str]:
    """Tera-operations, and their share of `whole` in percent."""
    if value is None:
        return [MISSING, MISSING]
    return [f"{value / TERA:.4g}", f"{100 * value / whole:.1f}" if whole else MISSING]


def _lacking(found: Report) -> list[str]:
    """Why there are dashes, and which case is counted where it depends on the prompt."""
    counts = [(_name(line.spec), line.spec.method, line.count) for line in found.lines if line.count is not None]

    def those(lacks: Callable[[Count], bool]) -> str:
        return ", ".join(dict.fromkeys(name for name, _, one in counts if lacks(one)))

    notes = [f"{_name(line.spec)} ({MISSING}): {line.lacking}." for line in found.lines if line.lacking]
    if found.shape.tower is None:
        notes.append(f"The vision encoder of {found.model} is of no family that is counted here: no exact total.")
    elif unseen := those(lambda one: one.exact.vision is None):
        notes.append(f"No exact total of {unseen}: what the vision encoder sees is not known.")
    if silent := those(lambda one: one.exact.scoring is None):
        notes.append(f"No exact total of {silent}: the method does not say what its choosing costs.")
    for name, method, one in counts:
        if one.exact.scoring is not None and method.counted_as:
            notes.append(f"{name} depends on the prompt: counted where {method.counted_as}.")
    if beyond := those(lambda one: one.paper is None):
        notes.append(f"No paper count of {beyond}: it runs the whole model before it chooses.")
    return list(dict.fromkeys(notes))
