"""What a model's outputs mean: the user's adaptors, and a ready one for Transformers outputs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import AdaptorError
from .feeding import accepts, call, named_inputs, without
from .matching.capture import Capture
from .matching.layers import hidden_states_until
from .types import INDEX, MASKED_LOGIT, Adaptor, Batch, ModelOutputs

logger = logging.getLogger("textbrewer")

_IGNORED = -100
"""The label that no loss of Transformers counts."""


class TransformersAdaptor:
    """Finds everything an objective may read in the outputs of a Transformers model.

    The outputs may be a dataclass, a mapping, a tuple or a tensor. Transformers itself is not imported.

    ``logits``: ``logits``, or ``start_logits`` and ``end_logits`` (positions of padding get −1e4 there, so that
    padding does not change the softmax over positions). ``logits_mask``, ``inputs_mask``: the batch's
    ``attention_mask``. ``labels``: ``labels``, or ``start_positions`` and ``end_positions``. ``losses``: ``loss``.
    ``hidden``: ``hidden_states`` (0 is the embeddings' output). ``attention``: ``attentions``.

    Args:
        model: the model whose outputs are read; names the items of a batch that is a tuple.
        features: the intermediate features some term reads; only these are asked of the model.
        teacher: True leaves the labels out of what the model is fed, since a teacher's own loss is not used.
    """

    def __init__(self, model: nn.Module, features: frozenset[str] = frozenset(), *, teacher: bool = False) -> None:
        self.model = model
        self.features = features
        self.teacher = teacher

    def request(self) -> dict[str, Any]:
        """The extra keywords that make the model give what is needed, and no more."""
        wanted = {"output_hidden_states": "hidden" in self.features, "output_attentions": "attention" in self.features}
        keywords = {name: True for name, needed in wanted.items() if needed and accepts(self.model, name)}
        if hasattr(self.config, "return_dict") and accepts(self.model, "return_dict"):
            keywords["return_dict"] = True
        return keywords

    @property
    def config(self) -> Any:
        """The model's Transformers config, or None."""
        return getattr(self.model, "config", None)

    def feed(self, batch: Batch) -> Batch:
        """What to feed the model: for a teacher, a mapping goes without its labels.

        They stay where a decoder's inputs are made of them.
        """
        if self.teacher and isinstance(batch, Mapping) and (not self.decodes or "decoder_input_ids" in batch):
            return {key: value for key, value in batch.items() if key not in _LABELS}
        return batch

    def read(self, batch: Batch) -> Batch:
        """What of the batch the outputs depend on: what the model is fed, and what the adaptor itself reads."""
        return self.feed(batch)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Switch fused attention to eager while maps are matched, and restore it.

        Fused kernels never form the attention map, so a model that runs them has none to give.
        """
        used = getattr(self.config, "_attn_implementation", None)
        switch: Callable[[str], None] | None = getattr(self.model, "set_attn_implementation", None)
        if "attention" not in self.features or used in (None, "eager") or switch is None:
            yield
            return
        logger.info(
            "%s: attention maps are matched, so attention runs as 'eager' instead of %r until training ends",
            type(self.model).__name__,
            used,
        )
        switch("eager")
        try:
            yield
        finally:
            switch(used)

    def masks(self, batch: Batch) -> dict[str, Any]:
        """What of the batch is real, without running the model: ``rows`` and, where known, the masks."""
        inputs = named_inputs(self.model, batch)
        first = next((value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0), None)
        if first is None:
            return {}
        mask = inputs.get("attention_mask")
        ids = inputs.get("input_ids")
        if mask is None and isinstance(ids, Tensor):
            mask = torch.ones_like(ids)
        # Logits of every token are selected by the attention mask; other logits are 2-d and take no mask.
        return {"rows": first.shape[0], "mask": mask, "logits_mask": self._targets(inputs) if self.decodes else mask}

    @property
    def decodes(self) -> bool:
        """Whether the model writes another text than it reads, of other tokens."""
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def _targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Which tokens a model writes, as the labels say it; None where they are not there."""
        labels = inputs.get("labels")
        return (labels != _IGNORED).long() if isinstance(labels, Tensor) and labels.dim() == 2 else None

    def __call__(self, batch: Batch, model_outputs: Any) -> dict[str, Any]:
        """The adaptor itself: ``(batch, model_outputs) -> dict``."""
        inputs = named_inputs(self.model, batch)
        found = _by_name(model_outputs) if hasattr(model_outputs, "keys") else _by_shape(model_outputs)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            found["inputs_mask"] = mask
            logits = found.get("logits")
            if isinstance(logits, list):
                found["logits"] = [item.masked_fill(mask == 0, MASKED_LOGIT) for item in logits]
            elif logits is not None and logits.dim() == 3:
                selects = self._targets(inputs) if self.decodes else mask
                if selects is not None and logits.shape[:2] == selects.shape:
                    found["logits_mask"] = selects
        labels = [inputs[name] for name in ("start_positions", "end_positions") if inputs.get(name) is not None]
        found["labels"] = labels or inputs.get("labels")
        return {key: value for key, value in found.items() if value is not None}


_LABELS = ("labels", "start_positions", "end_positions", "label", "next_sentence_label")


def _by_name(outputs: Mapping[str, Any]) -> dict[str, Any]:
    logits = outputs.get("logits", outputs.get("prediction_logits"))
    if logits is None and outputs.get("start_logits") is not None:
        logits = [outputs["start_logits"], outputs["end_logits"]]
    return {
        "logits": logits,
        "losses": outputs.get("loss"),
        "hidden": outputs.get("hidden_states"),
        "attention": outputs.get("attentions"),
    }


def _by_shape(outputs: Any) -> dict[str, Any]:
    """Read a plain tuple: an optional 0-d loss, then logits, then tuples of hidden states and attention maps."""
    items = [outputs] if isinstance(outputs, Tensor) else list(outputs) if isinstance(outputs, (list, tuple)) else []
    found: dict[str, Any] = {}
    logits: list[Tensor] = []
    for item in items:
        if isinstance(item, Tensor):
            if item.dim() == 0:
                found["losses"] = item
            elif "hidden" not in found and "attention" not in found:
                logits.append(item)
        elif isinstance(item, (list, tuple)) and item and isinstance(item[0], Tensor):
            found.setdefault("attention" if item[0].dim() == 4 else "hidden", item)
    if len(logits) == 2 and all(item.dim() == 2 and item.shape == logits[0].shape for item in logits):
        found["logits"] = logits
    elif logits:
        found["logits"] = logits[0]
    return found


@contextmanager
def _config_kept(model: nn.Module) -> Iterator[None]:
    """Restore the model's config: Transformers writes ``problem_type`` into it when it sees labels."""
    config = getattr(model, "config", None)
    before = dict(vars(config)) if hasattr(config, "__dict__") else None
    try:
        yield
    finally:
        if before is not None:
            vars(config).clear()
            vars(config).update(before)


class AdaptedModel:
    """A model with the adaptor that says what its outputs mean.

    Args:
        model: the user's model; never altered.
        adaptor: the user's adaptor, or None for the ready one.
        name: the adaptor's name in messages.
        features: the intermediate features some term reads.
        teacher: whether the model is a teacher.
        paths: submodules whose outputs some term reads, as :func:`~textbrewer.matching.modules_at` gives them.
        extra: what terms ask for by name beside the keys of 0.2.1: the adaptor's, or else a column of the batch. The
            model is fed such a column only if it takes it by name.
        deepest: the last hidden state that is needed, where nothing else of the outputs is: the forward pass stops
            there. None runs the whole model.
    """

    def __init__(
        self,
        model: nn.Module,
        adaptor: Adaptor | None,
        *,
        name: str,
        features: frozenset[str] = frozenset(),
        teacher: bool = False,
        paths: frozenset[str] = frozenset(),
        extra: frozenset[str] = frozenset(),
        deepest: int | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.deepest = deepest
        self.extra = extra
        self._not_fed = extra - inspect.signature(model.forward).parameters.keys() if extra else extra
        self.capture = Capture(model, paths)
        self.ready_adaptor = TransformersAdaptor(model, features, teacher=teacher) if adaptor is None else None
        self.adaptor: Any = self.ready_adaptor or adaptor
        if isinstance(adaptor, TransformersAdaptor):
            self.ready_adaptor = adaptor
        if not callable(self.adaptor):
            raise AdaptorError(f"{name} is a {type(adaptor).__name__}; it must be a function (batch, model_outputs)")

    def __call__(self, batch: Batch, args: Mapping[str, Any], forward: nn.Module | None = None) -> ModelOutputs:
        """Run the model (or ``forward`` in its place) and adapt what it gives."""
        runner = self.model if forward is None else forward
        keywords = args if self.ready_adaptor is None else {**self.ready_adaptor.request(), **args}
        if self.deepest is not None:
            states = hidden_states_until(self.model, self.deepest, lambda: call(runner, self.fed(batch), keywords))
            return self.adapt(batch, {"hidden_states": states})
        with self.capture.recording() as modules:
            outputs = call(runner, self.fed(batch), keywords)
        return replace(self.adapt(batch, outputs), modules=modules)

    def fed(self, batch: Batch) -> Batch:
        """What of the batch the model is fed."""
        fed = batch if self.ready_adaptor is None else self.ready_adaptor.feed(batch)
        return without(fed, self._not_fed)

    def read(self, batch: Batch) -> Batch:
        """What of the batch the outputs depend on."""
        return batch if self.ready_adaptor is None else without(self.ready_adaptor.read(batch), self.extra & {INDEX})

    def adapt(self, batch: Batch, outputs: Any) -> ModelOutputs:
        """Adapt outputs that are already there."""
        returned = self.adaptor(batch, outputs)
        if isinstance(returned, Mapping) and isinstance(batch, Mapping):
            returned = {**{key: batch[key] for key in self.extra if key in batch}, **returned}
        return ModelOutputs.from_adaptor(returned, adaptor=self.name, extra=self.extra)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Keep the model as its adaptor needs it, and give it and its config back as they were."""
        switched = self.ready_adaptor.ready() if self.ready_adaptor else nullcontext()
        with _config_kept(self.model), switched, self.capture.attached():
            yield

    def masks(self, batch: Batch) -> dict[str, Any]:
        """``rows`` and ``mask`` of a batch if the adaptor can tell them without running the model, else ``{}``."""
        tell = getattr(self.adaptor, "masks", None)
        told = dict(tell(batch)) if callable(tell) else {}
        columns = self.extra & batch.keys() if isinstance(batch, Mapping) else ()
        return {**{name: batch[name] for name in columns}, **told} if told else told


def label_names(config: Any) -> list[str] | None:
    """The names of a model's classes in their order, as its config's ``id2label`` has them; None where it has none."""
    names = getattr(config, "id2label", None)
    if not isinstance(names, Mapping):
        return None
    return [str(names[key]) for key in sorted(names, key=int)]


def are_unnamed(names: Sequence[str]) -> bool:
    """Whether these are the names that Transformers gives to classes that have none: ``LABEL_0``, ``LABEL_1``, …"""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))
