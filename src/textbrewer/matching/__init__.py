"""What to match between two models: features, submodules, and the projections between their widths."""

from .capture import Capture, modules_at, path_of
from .expand import expanded
from .features import features_of
from .projections import Copies, MatchLosses, Projections

__all__ = ["Capture", "Copies", "MatchLosses", "Projections", "expanded", "features_of", "modules_at", "path_of"]
