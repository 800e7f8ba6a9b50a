"""The plan of a student's size in the folder of a run: measured once, and found again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from .. import __version__
from ..configs.recipe import BESIDE_PLAN, PlanSettings
from ..errors import MissingDependencyError
from ..files import replaced
from ..planner import Limits, Plan, plan
from ..teachers.cache.fingerprint import digest_of_architecture
from .data import digest_of
from .settled import sizes_of

logger = logging.getLogger("textbrewer.pipeline")

PLAN, TABLE, PLOT = "plan.json", "plan.txt", "plan.svg"


@dataclass(frozen=True)
class Planned:
    """A plan of a run.

    Attributes:
        plan: what was measured and chosen.
        key: of what it was made of.
    """

    plan: Plan
    key: str

    def write(self, folder: Path) -> None:
        """Write all of it as JSON, its table, and its plot where Matplotlib is there to draw it."""
        texts = {
            PLAN: json.dumps({"key": self.key, **self.plan.to_dict()}, indent=2) + "\n",
            TABLE: f"{self.plan}\n",
        }
        try:
            texts[PLOT] = self.plan.svg()
        except MissingDependencyError as error:
            logger.warning("no plot of the plan: %s", error)
        for name, text in texts.items():
            with replaced(folder / name) as beside:
                beside.write_text(text, encoding="utf-8")


def limits_of(settings: PlanSettings, longest: int) -> Limits:
    """The limits of a recipe, for rows as long as those of the data where it says nothing of their length."""
    return Limits(**{**asdict(cast(Any, settings)), "length": settings.length or longest})


def planned(teacher: Any, limits: Limits, folder: Path, *, anew: bool = False) -> Planned:
    """The plan that an earlier run made in a folder for such a teacher and these limits, or one that is measured now.

    Args:
        teacher: a Transformers encoder.
        limits: what the student may cost.
        folder: of the run.
        anew: measure whatever is there.

    Raises:
        StudentError: nothing keeps to the limits, or the teacher takes fewer tokens.
    """
    made_of = {"limits": asdict(limits), "teacher": digest_of_architecture(teacher), "version": __version__}
    key = digest_of(made_of)
    found = None if anew else plan_in(folder, key)
    if found is not None:
        logger.info("plan: already there, %s", found.chosen)
        return Planned(found, key)
    logger.info("plan: measuring students for %s, with %d x %d tokens", limits, limits.batch, limits.length)
    found = plan(teacher, limits)
    told = "" if found.chosen.latency_ms is None else f", {found.chosen.latency_ms:.2f} ms"
    logger.info("plan: %s, %s parameters%s", found.chosen, f"{found.chosen.parameters:,}", told)
    return Planned(found, key)


def plan_in(folder: str | os.PathLike[str], key: str | None = None) -> Plan | None:
    """The plan that a run left in its folder; None where there is none that can be read.

    Args:
        folder: of the run.
        key: of what it must have been made of; None takes any.
    """
    try:
        plain = json.loads((Path(folder) / PLAN).read_text(encoding="utf-8"))
        return Plan.from_dict(plain) if key in (None, plain["key"]) else None
    except (OSError, ValueError, TypeError, KeyError):  # of another version, say
        return None


def remove_plan(folder: Path) -> None:
    """Remove what a plan left in a folder."""
    for name in (PLAN, TABLE, PLOT):
        (folder / name).unlink(missing_ok=True)


def is_planned(sizes: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a student of these sizes is the one that a plan chose."""
    chosen = sizes_of(plan.chosen.config)
    return all(sizes.get(key) == value for key, value in chosen.items() if key not in BESIDE_PLAN)
