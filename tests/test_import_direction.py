"""Imports among the rooms of the library go one way, from what depends on nothing to what users call."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import textbrewer

ROOT = Path(textbrewer.__file__).parent

# From the bottom up; a room may import the rooms of its own line, one way, and of the lines above it here.
LAYERS = [
    ["types", "errors", "files", "modes", "precision", "randomness"],
    ["losses", "schedules", "projections", "balancing"],
    ["presets"],
    ["matches"],
    ["configs"],
    ["batching", "feeding", "ranks", "stream", "matching", "adaptors", "data_utils", "students"],
    ["teachers", "objective"],
    ["engine"],
    ["distillers"],
    ["schemes"],
    ["tasks"],
    ["report"],
    ["planner", "export", "labelling", "doctor"],
    ["demo"],
    ["pipeline", "integrations"],
    ["cli"],
    ["__main__"],
]
FREE_STANDING = {"utils"}
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def sources_of(root: Path) -> dict[str, str]:
    """Text of every module by its dotted path below the package, ``__init__`` included."""
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def imports_of(module: str, text: str) -> set[tuple[str, ...]]:
    """Paths below the package that a module imports, wherever in it the import stands."""
    folder = module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            found |= {tuple(path[1:]) for path in paths if path[0] == "textbrewer"}
        elif isinstance(node, ast.ImportFrom):
            start = node.module.split(".") if node.module else []
            if node.level:
                start = [*folder[: len(folder) - node.level + 1], *start]
            elif start[0] == "textbrewer":
                start = start[1:]
            else:
                continue
            found |= {(*start, alias.name) for alias in node.names}
    return found


def rooms_of(sources: dict[str, str]) -> set[str]:
    return {module.split(".")[0] for module in sources} - {"__init__"}


def edges_of(sources: dict[str, str]) -> set[tuple[str, str]]:
    """``(room, room it imports)``; a name of the package itself counts as the room it comes from."""
    rooms = rooms_of(sources)
    origin = {path[-1]: path[0] for path in imports_of("__init__", sources["__init__"])}
    edges = set()
    for module, text in sources.items():
        room = module.split(".")[0]
        targets = {origin.get(path[0], path[0]) for path in imports_of(module, text) if path}
        edges |= {(room, target) for target in targets & rooms - {room} if room in rooms}
    return edges


def faults_of(sources: dict[str, str]) -> list[str]:
    known = set(LEVEL) | FREE_STANDING
    faults = [f"{room} is in no layer" for room in sorted(rooms_of(sources) - known)]
    edges = {edge for edge in edges_of(sources) if known.issuperset(edge)}
    for room, target in sorted(edges):
        if room in FREE_STANDING:
            faults.append(f"{room} is free-standing and imports {target}")
        elif target in FREE_STANDING:
            continue
        elif LEVEL[target] > LEVEL[room]:
            faults.append(f"{room} imports {target}, which is above it")
        elif LEVEL[target] == LEVEL[room] and room < target and (target, room) in edges:
            faults.append(f"{room} and {target} import each other")
    return faults


def new_faults(module: str, text: str) -> set[str]:
    """The faults that ``text`` at the end of ``module`` would bring."""
    sources = sources_of(ROOT)
    planted = {module: f"{sources.get(module, '')}\n{text}"}
    return set(faults_of(sources | planted)) - set(faults_of(sources))


def test_imports_go_one_way():
    sources = sources_of(ROOT)
    assert {"__init__", "types", "configs.__init__", "configs.training"} <= set(sources)
    assert {("configs", "presets"), ("distillers", "engine")} <= edges_of(sources)
    assert faults_of(sources) == []


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("losses.logits", "from ..configs import TrainingConfig", "losses imports configs, which is above it"),
        ("configs.training", "def f():\n    from ..engine.loop import a", "configs imports engine, which is above it"),
        ("matching.__init__", "from .. import objective", "matching imports objective, which is above it"),
        ("schedules", "import textbrewer.presets", "schedules imports presets, which is above it"),
        ("types", "from textbrewer.losses import kd_ce_loss", "types imports losses, which is above it"),
        ("teachers.live", "from .. import GeneralDistiller", "teachers imports distillers, which is above it"),
        ("utils", "from .errors import DataError", "utils is free-standing and imports errors"),
        ("errors", "from .types import Batch", "errors and types import each other"),
        ("cellar", "", "cellar is in no layer"),
        ("cellar.__init__", "", "cellar is in no layer"),
    ],
)
def test_a_fault_is_found(module, text, fault):
    assert new_faults(module, text) == {fault}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("distillers.basic", "from ..losses import kl_loss"),
        ("configs._base", "def f():\n    from .distillation import IntermediateMatch"),
        ("report.page", "import torch.utils"),
        ("demo", "from . import GeneralDistiller, __version__"),
        ("cli", "from .utils import display_parameters"),
        ("types", "from typing import objective"),
        ("__init__", "from .distillers import GeneralDistiller"),
    ],
)
def test_what_is_allowed_is_no_fault(module, text):
    assert new_faults(module, text) == set()
