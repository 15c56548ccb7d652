"""Names, specs, and methods of other packages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_wrappers import UserError, compress, registry
from model_wrappers.methods.base import Scorer
from model_wrappers.methods.fastv import FastV
from model_wrappers.methods.relevance import Relevance
from model_wrappers.registry import format_spec, method, method_names, parse, register_method
from tests.model_wrappers.conftest import IMAGE
from tests.model_wrappers.table import ONE_FAMILY, ROWS

BUILT_IN = list(registry._BUILT_IN)
AT_THE_INPUT = {"downsample", "fewer_frames"}
"""Methods that cut no token; their rules are in test_input_transforms.py."""


def test_the_names() -> None:
    assert BUILT_IN[0] == "vanilla" and method_names()[: len(BUILT_IN)] == BUILT_IN
    rows = {row.name for row in ROWS}
    assert rows | {"vanilla"} | AT_THE_INPUT == set(BUILT_IN), "a method without a row in tests/.../table.py"
    assert all(method(name).name == name for name in BUILT_IN)


@pytest.mark.parametrize(
    ("spec", "model", "made", "keep"),
    [
        ("Qwen2-VL-7B-Instruct+fastv:layer=2@0.25", "Qwen2-VL-7B-Instruct", FastV(2), 0.25),
        ("Qwen2-VL-7B-Instruct+fastv@0.5", "Qwen2-VL-7B-Instruct", FastV(4), 0.5),
        ("a/b+c+relevance:clamp=false,target=margin@1", "a/b+c", Relevance(clamp=False, target="margin"), 1.0),
        ("/x/y@z+random:seed=3@0.1", "/x/y@z", method("random", seed=3), 0.1),
        ("m+cnn:compressor=/c/d@0.1", "m", method("cnn", compressor="/c/d"), 0.1),
        ("m+cnn:compressor=none@0.1", "m", method("cnn"), 0.1),
        ("micro-qwen2-vl", "micro-qwen2-vl", method("vanilla"), 1.0),
        ("micro-qwen2-vl+vanilla", "micro-qwen2-vl", method("vanilla"), 1.0),
    ],
)
def test_specs(spec: str, model: str, made: Any, keep: float) -> None:
    found = parse(spec)
    assert (found.model, found.method, found.keep) == (model, made, keep)
    assert found.method_name == made.name
    again = parse(format_spec(found.model, found.method, found.keep))
    assert (again.model, again.method, again.keep) == (model, made, keep)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("m+fastv", "@keep"),
        ("m+fastv@", "@keep"),
        ("m+fastv@much", "@keep"),
        ("m+fastv@0", "keep=0"),
        ("m+fastv@1.5", "keep=1.5"),
        ("m+fastv@nan", "keep=nan"),
        ("m@0.5", "no method"),
        ("+fastv@0.5", "no model"),
        ("", "no model"),
        ("m+fastw@0.5", "unknown method 'fastw', known are vanilla, random"),
        ("m+fastv:layer@0.5", "field=value"),
        ("m+fastv:layer=two@0.5", "layer='two', allowed is a whole number"),
        ("m+fastv:layer=1@0.5", "layer=1"),
        ("m+fastv:layer=2,layer=3@0.5", "twice"),
        ("m+fastv:depth=2@0.5", "no field 'depth': its fields are layer"),
        ("m+uniform:seed=2@0.5", "no field 'seed': its fields are positions"),
        ("m+relevance:target=loss@0.5", "target='loss', allowed is logit or margin or logprob"),
        ("m+relevance:clamp=maybe@0.5", "clamp='maybe', allowed is true or false"),
        ("m+vanilla@0.5", "vanilla"),
    ],
)
def test_wrong_specs(spec: str, message: str) -> None:
    with pytest.raises(UserError, match="^.*" + message.replace("(", r"\(")):
        parse(spec)


@pytest.mark.parametrize("value", [True, "4", 4.0, None])
def test_a_field_of_the_wrong_kind(value: Any) -> None:
    with pytest.raises(UserError, match="layer="):
        method("fastv", layer=value)


def test_equal_fields_are_one_method() -> None:
    assert {FastV(4): "scores"}[method("fastv", layer=4)] == "scores"
    assert method("fastv", layer=2) != FastV(4) and method("vanilla") != method("uniform")


@dataclass(frozen=True)
class Last(Scorer):
    """Keeps the last tokens."""

    name = "last"

    def score(self, model: Any, prompt: Any) -> Any:
        import torch

        return torch.arange(prompt.n_visual)


@ONE_FAMILY
def test_registering(model: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register_method("last", Last)
    register_method("last", Last)
    assert method_names() == [*BUILT_IN, "last"]
    with compress(model, "last", keep=0.1) as compression:
        model.generate(**ask(IMAGE), max_new_tokens=1)
    assert compression.last[0].kept.tolist() == [18, 19]
    for name, cls in (("last", FastV), ("fastv", Last), ("a+b", Last), ("", Last)):
        with pytest.raises(ValueError):
            register_method(name, cls)


def test_a_method_of_another_package(tmp_path: Path) -> None:
    """Installed as a wheel would leave it: a module and its dist-info with the entry point."""
    (tmp_path / "newest.py").write_text(
        "from dataclasses import dataclass\n"
        "from model_wrappers.methods.base import Scorer\n"
        "@dataclass(frozen=True)\n"
        "class Newest(Scorer):\n"
        "    name = 'newest'\n"
        "    power: float = 1.0\n"
    )
    info = tmp_path / "newest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: newest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[retain.methods]\nnewest = newest:Newest\nbroken = nowhere:Nothing\nodd = newest:dataclass\n"
    )
    script = (
        "from model_wrappers import UserError\n"
        "from model_wrappers.registry import method, method_names, parse\n"
        "assert {'newest', 'broken'} <= set(method_names())\n"
        "print(parse('m+newest:power=2@0.5').method)\n"
        "for name in ('broken', 'odd'):\n"
        "    try:\n"
        "        method(name)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    done = _python(script, tmp_path)
    assert "Newest(positions='own', power=2.0)" in done
    assert "method 'broken' (nowhere:Nothing) does not load" in done
    assert "method 'odd' (newest:dataclass) is not a dataclass derived from Method" in done


def test_names_are_checked_without_torch() -> None:
    script = (
        "import sys\n"
        "import model_wrappers\n"
        "from model_wrappers.registry import method_names, parse\n"
        "parse('m+relevance:target=margin@0.5'), parse('m+fastv@0.5'), method_names()\n"
        "heavy = {'torch', 'transformers', 'vlmeval', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    _python(script)


def _python(script: str, *paths: Path) -> str:
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": ":".join(map(str, (root, *paths))), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
