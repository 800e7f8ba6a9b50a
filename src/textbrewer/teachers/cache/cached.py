"""A teacher behind a cache: rows that are known are read, the others are computed in one smaller batch and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import CacheError, count_of
from ...feeding import ABSENT, Fed, named_inputs, to_device
from ...types import Batch, ModelOutputs
from ..live import LiveTeacher, TeacherSource
from .parts import Part, Reads, outputs_of, parts_of, require_rows, without_tensors
from .records import Shape, batched, packed
from .rows import Rows, salt_of

if TYPE_CHECKING:
    from .cache import Namespace

logger = logging.getLogger("textbrewer")

# Half as many rows make it all but sure that dropout shows, even where only a few logits are dropped.
_SAMPLE = 16


@dataclass(frozen=True)
class Plan:
    """What was learned of a teacher from a sample of its first batch.

    Attributes:
        shapes: of the parts that are kept.
        stripped: whether trailing padding is left out of keys and records.
        padding: what the batch had of it, as :attr:`Rows.padding` tells; without, what becomes of it is a guess.
        like: outputs whose lists are as long as the teacher's.
    """

    shapes: Mapping[Part, Shape]
    stripped: bool
    padding: int
    like: ModelOutputs

    def strips(self, rows: Rows) -> bool:
        """Whether it is left out of this batch's."""
        return self.stripped and rows.divisible


class CachedTeacher:
    """A teacher source that runs its teacher only for rows it has not seen.

    Args:
        live: the teacher.
        namespace: where this very teacher's records are.
        reads: what the terms of this run read.
        rows: how many rows the data has, if known: for the estimate of the size.
    """

    def __init__(self, live: LiveTeacher, namespace: Namespace, reads: Reads, rows: int | None = None) -> None:
        self.live, self.namespace, self.reads, self.rows = live, namespace, reads, rows
        self.plan: Plan | None = None
        self.hits = self.misses = 0
        self._estimated = False
        self._tried: dict[Rows, ModelOutputs] = {}

    def __call__(self, fed: Fed, args: Mapping[str, Any], inputs_mask: Tensor | None = None) -> ModelOutputs:
        """The teacher's outputs for its part of the batch.

        Args:
            fed: the parts of the batch.
            args: extra keywords of the forward pass.
            inputs_mask: the student's; without one, terms read padding too.

        Raises:
            CacheError: rows can't be told apart, the teacher is not deterministic, or a read-only cache lacks a row.
        """
        if fed.teacher_cache is not ABSENT or fed.teacher is None:
            return self.live(fed, args)
        values, plan = self._values(fed, args, inputs_mask)
        moved = {part: value.to(self._device, non_blocking=True) for part, value in values.items()}
        return self.live.read(outputs_of(moved, plan.like))

    def fill(
        self, fed: Fed, args: Mapping[str, Any], mask_of: Callable[[Fed], Tensor | None] | None = None
    ) -> tuple[int, int]:
        """Compute and keep what is missing, without reading the rest; returns the rows, and those computed.

        Args:
            fed: the parts of the batch.
            args: extra keywords of the forward pass.
            mask_of: tells the student's mask of a batch, asked where a plan is made; None takes padding to be masked.
        """
        rows = self._rows(fed.teacher_on_host)
        told = (lambda: ABSENT) if mask_of is None or not self.reads.features else partial(mask_of, fed)
        plan = self._planned(rows, args, told, fed.teacher is fed.student)
        keys = rows.keys(salt_of(args), plan.strips(rows))
        with self.namespace.store.reading() as get:
            missing = [row for row, key in enumerate(keys) if not all(get(key + _suffix(p)) for p in plan.shapes)]
        if missing:
            self._computed(rows, missing, keys, plan, args)
        self._tried.clear()
        return rows.number, len(missing)

    def _values(self, fed: Fed, args: Mapping[str, Any], inputs_mask: Tensor | None) -> tuple[dict[Part, Tensor], Plan]:
        rows = self._rows(fed.teacher_on_host)
        plan = self._planned(rows, args, lambda: inputs_mask, fed.teacher is fed.student)
        keys = rows.keys(salt_of(args), plan.strips(rows))
        with self.namespace.store.reading() as get:
            found: dict[Part, list[Any]] = {part: [get(key + _suffix(part)) for key in keys] for part in plan.shapes}
            missing = [row for row in range(rows.number) if any(records[row] is None for records in found.values())]
            self.hits += rows.number - len(missing)
            if missing:
                computed = self._computed(rows, missing, keys, plan, args)
                for part, records in found.items():
                    for row in missing:
                        records[row] = computed[keys[row] + _suffix(part)]
            self._tried.clear()
            pinned = self._device.type == "cuda"
            return {part: batched(records, rows.length, pinned) for part, records in found.items()}, plan

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.live.adapted.model.parameters()), torch.device("cpu"))

    def _rows(self, batch: Batch) -> Rows:
        adapted = self.live.adapted
        # The labels that a teacher is not fed are told too, if its adaptor's labels are kept.
        fed = batch if self.reads.labels else adapted.read(batch)
        mask = named_inputs(adapted.model, fed).get("attention_mask")
        return Rows(adapted.model, fed, mask if isinstance(mask, Tensor) else None)

    def _computed(
        self, rows: Rows, missing: Sequence[int], keys: Sequence[bytes], plan: Plan, args: Mapping[str, Any]
    ) -> dict[bytes, bytes]:
        """Records of the missing rows by key, which are kept as long as there is room."""
        self.misses += len(missing)
        cache = self.namespace.cache
        if cache.read_only:
            raise CacheError(
                f"{cache}: {count_of(len(missing), 'row')} of this batch are not in the read-only cache; open it "
                "without read_only=True to compute and keep them, or fill it first with cache.build"
            )
        # A row that is there twice is computed once, so that both see the same bits.
        run = list({keys[row]: row for row in missing}.values()) if rows.divisible else list(range(rows.number))
        strips = plan.strips(rows)
        # Only where the very same batch would be run: other padding might give other bits.
        same = run == list(range(rows.number)) and not (strips and rows.lengths and max(rows.lengths) != rows.length)
        known = self._tried.get(rows) if same else None
        outputs = self._run(rows.chosen(run, trim=strips), args) if known is None else known
        require_rows(list(plan.shapes), outputs, len(run))
        lengths = [rows.lengths[row] for row in run] if strips and rows.lengths else None
        kept: dict[bytes, bytes] = {}
        for part, shape in plan.shapes.items():
            top_k = cache.top_k if part.kind == "logits" else 0
            records = packed(part.of(outputs), shape, lengths, cache.torch_dtype, top_k)
            kept |= {keys[row] + _suffix(part): record for row, record in zip(run, records, strict=True)}
        if not self._estimated:
            self._estimated = True
            cache.say_estimate(sum(len(record) for record in kept.values()) / len(run), self.rows, self.reads)
        self.namespace.keep(kept)
        return kept

    def _run(self, batch: Batch, args: Mapping[str, Any]) -> ModelOutputs:
        return self.live.raw(to_device(batch, self._device), args)

    def _planned(self, rows: Rows, args: Mapping[str, Any], mask_of: Callable[[], Any], one_batch: bool) -> Plan:
        """The plan, made from a sample of the first batch, and again of the first that has more padding."""
        if self.plan is None or (rows.divisible and rows.padding > self.plan.padding):
            before, inputs_mask = self.plan, mask_of()
            with torch.no_grad():
                self.plan = self._learned(rows, args, inputs_mask, one_batch)
            if not self.plan.stripped and rows.length is not None and (before is None or before.stripped):
                logger.info(
                    "teacher cache: %s padding too, so that a row is found again only under the same padding",
                    "the teacher reads" if self._masked(rows, inputs_mask, one_batch) else "some term may read",
                )
        return self.plan

    def _learned(self, rows: Rows, args: Mapping[str, Any], inputs_mask: Any, one_batch: bool) -> Plan:
        """Run the same rows, half of them again, one alone, and one with other padding."""
        sample = list(range(min(_SAMPLE, rows.number) if rows.divisible else rows.number))
        outputs = self._run(rows.chosen(sample, trim=False), args)
        # Where the sample is the whole batch, it need not be run once more to be kept.
        self._tried = {rows: outputs} if len(sample) == rows.number else {}
        parts = parts_of(self.reads, outputs)
        require_rows(parts, outputs, len(sample))
        again = sample[: -(-len(sample) // 2)] if rows.divisible else sample
        if self._changed(parts, outputs, rows, again, args):
            # Half of a batch may be computed in another order, in half precision too: only the very same one decides.
            for part in self._changed(parts, outputs, rows, sample, args):
                raise CacheError(
                    f"the teacher gives two answers for one input ({part.name}): a teacher cache needs a deterministic "
                    "teacher; switch its dropout off (model.eval() does, unless the model calls dropout itself)"
                )
        if rows.divisible and len(sample) > 1:
            self._require_independent(parts, outputs, self._run(rows.chosen(sample[-1:], trim=False), args))
        plain = Plan(dict.fromkeys(parts, Shape()), False, rows.padding, without_tensors(outputs))
        if not rows.divisible or rows.length is None or rows.length < 2:
            return plain
        unselected = self.reads.logits and any(t.dim() > 2 for t in outputs.logits) and not outputs.logits_mask
        if unselected or not self._masked(rows, inputs_mask, one_batch):
            return plain
        shapes = self._under_other_padding(rows, parts, args)
        return plain if shapes is None else replace(plain, shapes=shapes, stripped=True)

    def _changed(
        self, parts: Sequence[Part], outputs: ModelOutputs, rows: Rows, again: Sequence[int], args: Mapping[str, Any]
    ) -> list[Part]:
        """The parts that the first rows give otherwise when they are run again."""
        found = self._run(rows.chosen(again, trim=False), args)
        return [part for part in parts if not _close(part.of(outputs)[: len(again)], part.of(found))]

    @staticmethod
    def _require_independent(parts: Sequence[Part], outputs: ModelOutputs, alone: ModelOutputs) -> None:
        for part in parts:
            # Wide, since a batch of another size may be computed in another order, in half precision too.
            if not _close(part.of(alone)[0], part.of(outputs)[-1], tolerance=0.1):
                raise CacheError(
                    f"the teacher's answer for a row depends on the other rows of its batch ({part.name}), so that it "
                    "can't be kept by row; train without a teacher cache"
                )

    def _masked(self, rows: Rows, inputs_mask: Any, one_batch: bool) -> bool:
        """Whether no term reads the padding of features."""
        if not self.reads.features:
            return True
        if self.reads.padding or not one_batch:
            return False
        if inputs_mask is ABSENT:
            return True
        if inputs_mask is None or tuple(inputs_mask.shape) != (rows.number, rows.length):
            return False
        ends = torch.tensor(rows.lengths).unsqueeze(1)
        real = inputs_mask.detach().cpu() != 0
        return not bool((real & (torch.arange(real.shape[1]) >= ends)).any())

    def _under_other_padding(
        self, rows: Rows, parts: Sequence[Part], args: Mapping[str, Any]
    ) -> dict[Part, Shape] | None:
        """Which axes grow with padding; None if the values of real tokens change with it too.

        Where a row's padding is at least half of it, that row with and without it. Else the first half of a row, alone
        and with the other half masked: an average over the padding too would hardly change by a token more or less.
        """
        length, lengths = rows.length or 2, rows.lengths or []
        row = lengths.index(min(lengths))
        end = min(lengths[row], length // 2)
        beside = rows.chosen([row], trim=False)
        if end < lengths[row]:
            beside = Rows(self.live.adapted.model, beside, None).like(self._masked_from(end))
        try:
            short, long = (self._run(batch, args) for batch in (rows.chosen([row], trim=False, length=end), beside))
        except Exception:
            return None  # some input that is not known to have a column a token has one, or the length is fixed
        shapes = {part: _shape_of(part, part.of(short)[0], part.of(long)[0], end, length) for part in parts}
        return None if None in shapes.values() else {part: shape for part, shape in shapes.items() if shape}

    def _masked_from(self, end: int) -> Any:
        """Makes padding of a batch's columns from ``end`` on."""
        pad = getattr(getattr(self.live.adapted.model, "config", None), "pad_token_id", None)
        fills = {"attention_mask": 0, "input_ids": max(pad or 0, 0), "inputs_embeds": 0}

        def padded(name: str, value: Any) -> Any:
            if name not in fills:
                return value
            changed = value.clone()
            changed[:, end:] = fills[name]
            return changed

        return padded


@dataclass(frozen=True)
class FillJob:
    """A part of what a cache is filled with.

    Attributes:
        source: a teacher behind the cache, or an ensemble of them.
        loader: the batches.
        args: extra keywords of the forward pass.
        parts_of: what of a batch each side is fed.
        mask_of: as in :meth:`CachedTeacher.fill`.
    """

    source: TeacherSource
    loader: Any
    args: Mapping[str, Any]
    parts_of: Callable[[Batch], Fed]
    mask_of: Callable[[Fed], Tensor | None] | None = None


def _shape_of(part: Part, short: Tensor, long: Tensor, end: int, length: int) -> Shape | None:
    """Of a part of one row: ``short`` without padding, ``long`` with it; None if real tokens can't do without it."""
    if short.dim() != long.dim():
        return None
    axes = tuple(axis for axis in range(short.dim()) if short.shape[axis] != long.shape[axis])
    if any(short.shape[axis] != end or long.shape[axis] != length for axis in axes):
        return None
    real = tuple(slice(end) if axis in axes else slice(None) for axis in range(short.dim()))
    if not _close(short, long[real]):
        return None
    if part.kind in ("logits_mask", "inputs_mask"):
        return Shape(axes) if int((long != 0).sum()) == int((short != 0).sum()) else None
    last = short.dim() - 1
    if last not in axes:
        return Shape(axes)
    # A softmax may run over the last axis: what stands at padding there matters to the real tokens.
    behind = long[(*real[:-1], slice(end, None))]
    fill = float(behind.flatten()[0])
    if not _close(behind, torch.full_like(behind, fill)) or (part.kind == "logits" and fill > -1e3):
        return None
    return Shape(axes, fill)


def _close(first: Tensor, second: Tensor, tolerance: float = 5e-3) -> bool:
    """Equal but for the order in which numbers were added up."""
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return bool((first == second).all())
    a, b = (torch.nan_to_num(value.float()) for value in (first, second))
    scale = max(float(a.abs().clamp(max=1e3).max()), 1e-3) if a.numel() else 1.0
    return a.numel() == 0 or float((a - b).abs().max()) <= tolerance * scale


def _suffix(part: Part) -> bytes:
    return part.name.encode()
