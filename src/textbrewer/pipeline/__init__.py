"""From one recipe to a model in use: every command of the command line as a Python call."""

from .comparing import compare
from .distilling import TrainingResult, distill, examine, fill_cache, train
from .models import Loaded, load
from .planning import plan_in
from .recipes import RecipeLike, read_recipe
from .results import DistillationResult, write_report
from .run import Run
from .starting import init
from .using import Benchmark, benchmark, evaluate, export, inspect, make_student, predict

__all__ = [
    "Benchmark",
    "DistillationResult",
    "Loaded",
    "RecipeLike",
    "Run",
    "TrainingResult",
    "benchmark",
    "compare",
    "distill",
    "evaluate",
    "examine",
    "export",
    "fill_cache",
    "init",
    "inspect",
    "load",
    "make_student",
    "plan_in",
    "predict",
    "read_recipe",
    "train",
    "write_report",
]
