"""What to match between the layers of two models, and the projections between their widths."""

from .features import features_of
from .projections import Projections

__all__ = ["Projections", "features_of"]
