"""One teacher, its soft labels and its intermediate features."""

from __future__ import annotations

from torch import nn

from ..configs import DistillationConfig, TrainingConfig
from ..matching import Projections
from ..objective import FeatureMatch, Term
from ..types import Adaptor
from .basic import BasicDistiller


class GeneralDistiller(BasicDistiller):
    """Distil one teacher by its logits and by matches between intermediate layers.

    The arguments are those of :class:`BasicDistiller`; ``distill_config.intermediate_matches`` says what is
    matched. Projections are in ``distiller.projections`` from the start, in the order of the matches.
    """

    matched = True

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: Adaptor | None = None,
        adaptor_S: Adaptor | None = None,
    ) -> None:
        super().__init__(train_config, distill_config, model_T, model_S, adaptor_T, adaptor_S)
        self.projections = Projections(distill_config.intermediate_matches)

    def _feature_terms(self) -> list[Term]:
        matches = self.d_config.intermediate_matches
        return [FeatureMatch(m, p) for m, p in zip(matches, self.projections.for_match, strict=True)]

    def _features(self) -> frozenset[str]:
        return frozenset(match.feature for match in self.d_config.intermediate_matches)
