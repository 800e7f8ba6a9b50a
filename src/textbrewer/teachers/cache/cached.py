"""A teacher behind a cache: rows that are known are read, the others are computed in one smaller batch and kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import CacheError, count_of
from ...feeding import ABSENT, Fed, named_inputs, to_device
from ...types import Batch, ModelOutputs
from ..live import LiveTeacher
from .parts import Part, Reads, outputs_of, parts_of, require_rows
from .records import Shape, batched, packed
from .rows import Rows, salt_of

if TYPE_CHECKING:
    from .cache import Namespace

logger = logging.getLogger("textbrewer")


@dataclass(frozen=True)
class Plan:
    """What was learned of a teacher from a sample of its first batch.

    Attributes:
        shapes: of the parts that are kept.
        stripped: whether trailing padding is left out of keys and records.
        like: outputs whose lists are as long as the teacher's.
    """

    shapes: Mapping[Part, Shape]
    stripped: bool
    like: ModelOutputs


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
        device = next((p.device for p in self.live.adapted.model.parameters()), torch.device("cpu"))
        values, plan = self._values(fed.teacher_on_host, args, inputs_mask, device)
        moved = {part: value.to(device, non_blocking=True) for part, value in values.items()}
        return self.live.read(outputs_of(moved, plan.like))

    def fill(self, fed: Fed, args: Mapping[str, Any]) -> tuple[int, int]:
        """Compute and keep what is missing, without reading the rest; returns the rows, and those computed.

        Padding is taken to be masked by the student too.
        """
        device = next((p.device for p in self.live.adapted.model.parameters()), torch.device("cpu"))
        rows = self._rows(fed.teacher_on_host)
        plan = self._planned(rows, args, ABSENT, device)
        keys = rows.keys(salt_of(args), plan.stripped)
        with self.namespace.store.reading() as get:
            missing = [row for row, key in enumerate(keys) if not all(get(key + _suffix(p)) for p in plan.shapes)]
        if missing:
            self._computed(rows, missing, keys, plan, args, device)
        return rows.number, len(missing)

    def _values(
        self, batch: Batch, args: Mapping[str, Any], inputs_mask: Tensor | None, device: torch.device
    ) -> tuple[dict[Part, Tensor], Plan]:
        rows = self._rows(batch)
        plan = self._planned(rows, args, inputs_mask, device)
        keys = rows.keys(salt_of(args), plan.stripped)
        with self.namespace.store.reading() as get:
            found = {part: [get(key + _suffix(part)) for key in keys] for part in plan.shapes}
            missing = [row for row in range(rows.number) if any(records[row] is None for records in found.values())]
            self.hits += rows.number - len(missing)
            if missing:
                for part, records in self._computed(rows, missing, keys, plan, args, device).items():
                    for row, record in zip(missing, records, strict=True):
                        found[part][row] = memoryview(record)
            pinned = device.type == "cuda"
            return {part: batched(records, rows.length, pinned) for part, records in found.items()}, plan

    def _rows(self, batch: Batch) -> Rows:
        adapted = self.live.adapted
        fed = adapted.fed(batch)
        mask = named_inputs(adapted.model, fed).get("attention_mask")
        return Rows(adapted.model, fed, mask if isinstance(mask, Tensor) else None)

    def _computed(
        self,
        rows: Rows,
        missing: Sequence[int],
        keys: Sequence[bytes],
        plan: Plan,
        args: Mapping[str, Any],
        device: torch.device,
    ) -> dict[Part, list[bytes]]:
        """Records of the missing rows, which are kept as long as there is room."""
        self.misses += len(missing)
        cache = self.namespace.cache
        if cache.read_only:
            raise CacheError(
                f"{cache}: {count_of(len(missing), 'row')} of this batch are not in the read-only cache; open it "
                "without read_only=True to compute and keep them, or fill it first with cache.build"
            )
        outputs = self._run(rows.chosen(missing, trim=plan.stripped), args, device)
        require_rows(list(plan.shapes), outputs, len(missing))
        lengths = [rows.lengths[row] for row in missing] if plan.stripped and rows.lengths else None
        records = {
            part: packed(
                part.of(outputs), shape, lengths, cache.torch_dtype, cache.top_k if part.kind == "logits" else 0
            )
            for part, shape in plan.shapes.items()
        }
        kept = {
            keys[row] + _suffix(part): record
            for part, of_rows in records.items()
            for row, record in zip(missing, of_rows, strict=True)
        }
        if not self._estimated:
            self._estimated = True
            cache.say_estimate(sum(map(len, kept.values())) / len(missing), self.rows, self.reads)
        self.namespace.keep(kept)
        return records

    def _run(self, batch: Batch, args: Mapping[str, Any], device: torch.device) -> ModelOutputs:
        return self.live.raw(to_device(batch, device), args)

    def _planned(self, rows: Rows, args: Mapping[str, Any], inputs_mask: Any, device: torch.device) -> Plan:
        """The plan, made from a sample of the first batch: the same rows twice, and once with other padding."""
        if self.plan is None:
            with torch.no_grad():
                self.plan = self._learned(rows, args, inputs_mask, device)
            if not self.plan.stripped and rows.length is not None:
                logger.info(
                    "teacher cache: %s reads padding too, so that a row is found again only under the same padding",
                    "some term" if inputs_mask is None else "the teacher",
                )
        return self.plan

    def _learned(self, rows: Rows, args: Mapping[str, Any], inputs_mask: Any, device: torch.device) -> Plan:
        sample = list(range(min(2, rows.number)))
        outputs, again = (self._run(rows.chosen(sample, trim=False), args, device) for _ in range(2))
        parts = parts_of(self.reads, outputs)
        require_rows(parts, outputs, len(sample))
        for part in parts:
            if not _close(part.of(outputs), part.of(again)):
                raise CacheError(
                    f"the teacher gives two answers for one input ({part.name}): a teacher cache needs a deterministic "
                    "teacher; switch its dropout off (model.eval() does, unless the model calls dropout itself)"
                )
        plain = Plan(dict.fromkeys(parts, Shape()), False, outputs)
        if rows.length is None or rows.length < 2 or not self._masked(rows, outputs, inputs_mask):
            return plain
        shapes = self._under_other_padding(rows, parts, args, device)
        return plain if shapes is None else Plan(shapes, True, outputs)

    def _masked(self, rows: Rows, outputs: ModelOutputs, inputs_mask: Any) -> bool:
        """Whether no term reads padding."""
        if self.reads.logits and any(t.dim() > 2 for t in outputs.logits) and not outputs.logits_mask:
            return False
        if not self.reads.features or inputs_mask is ABSENT:
            return True
        if inputs_mask is None or tuple(inputs_mask.shape) != (rows.number, rows.length):
            return False
        ends = torch.tensor(rows.lengths).unsqueeze(1)
        real = inputs_mask.detach().cpu() != 0
        return not bool((real & (torch.arange(real.shape[1]) >= ends)).any())

    def _under_other_padding(
        self, rows: Rows, parts: Sequence[Part], args: Mapping[str, Any], device: torch.device
    ) -> dict[Part, Shape] | None:
        """Which axes grow with padding; None if the values of real tokens change with it too.

        The first row without its last token, alone and with a column of padding.
        """
        length = max(rows.length or 2, 2)
        shorter = rows.chosen([0], trim=False, length=length - 1)
        padded = Rows(rows.model, rows.chosen([0], trim=False), None).like(_last_column_masked)
        try:
            alone, beside = (self._run(batch, args, device) for batch in (shorter, padded))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None  # some input that is not known to have a column a token has one
        end = min((rows.lengths or [length])[0], length - 1)
        shapes = {}
        for part in parts:
            short, long = part.of(alone)[0], part.of(beside)[0]
            if short.dim() != long.dim():
                return None
            axes = tuple(axis for axis in range(short.dim()) if short.shape[axis] != long.shape[axis])
            if any(short.shape[axis] != length - 1 or long.shape[axis] != length for axis in axes):
                return None
            fill = 0.0
            if part.kind == "logits" and axes == (short.dim() - 1,):
                # Scores of positions, over which a softmax runs: only if padding is ruled out can it be left out.
                fill = float(long[..., -1].flatten()[0])
                if fill > -1e3:
                    return None
            until = tuple(slice(end) if axis in axes else slice(None) for axis in range(short.dim()))
            if not _close(short[until], long[until]):
                return None
            shapes[part] = Shape(axes, fill)
        return shapes


def _last_column_masked(name: str, value: Any) -> Any:
    if name != "attention_mask":
        return value
    changed = value.clone()
    changed[:, -1] = 0
    return changed


def _close(first: Tensor, second: Tensor) -> bool:
    """Equal but for the order in which numbers were added up."""
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return bool((first == second).all())
    a, b = (torch.nan_to_num(value.float()) for value in (first, second))
    scale = max(float(a.abs().clamp(max=1e3).max()), 1e-3) if a.numel() else 1.0
    return a.numel() == 0 or float((a - b).abs().max()) <= 5e-3 * scale


def _suffix(part: Part) -> bytes:
    return part.name.encode()
