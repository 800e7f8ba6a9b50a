"""The chart of ``docs/performance.md``: a step without and with the teacher cache, in % of a supervised step.

Reads what ``step.py`` wrote; needs the extra ``report``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from textbrewer.files import replaced
from textbrewer.report import plots

RUNS = {"supervised": "supervised step", "uncached": "distilling step", "cached": "with the teacher cache"}


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("runs/bench/step.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/images/step.svg"))
    args = parser.parse_args()
    measures = {}
    for result in json.loads(args.results.read_text())["results"]:
        setting = "\n".join([result["models"].replace(" -> ", " →\n"), result["matches"]])
        measures[setting] = {label: result.get(f"{run} / supervised", 1.0) for run, label in RUNS.items()}
    with replaced(args.output) as beside:
        beside.write_text(plots.relative(measures, RUNS["supervised"]), encoding="utf-8")
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
