"""``display_parameters``: where the parameters of a model are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

_MEGABYTE = 1024 * 1024


@dataclass(eq=False)
class LayerNode:
    """A module or tensor in the tree of a model.

    Attributes:
        name: its own name, with ``(shared)`` behind a tensor whose memory was counted before.
        fullname: the same for a top-level node, else with the names above it, joined by ``.``.
        value: ``[number of elements, MB]`` of it and all below, shared memory counted once.
        children_name: the nodes below, by name.
        parent: the node above, or None.
    """

    name: str
    fullname: str
    parent: LayerNode | None = None
    value: list[float] = field(default_factory=lambda: [0, 0])
    children_name: dict[str, LayerNode] = field(default_factory=dict)

    def child(self, name: str) -> LayerNode:
        """The node below called ``name``, made if it is not there."""
        if name not in self.children_name:
            above = "" if self.parent is None else f"{self.fullname}."
            self.children_name[name] = LayerNode(name, f"{above}{name}", self)
        return self.children_name[name]

    def rows(self, max_level: int | None, level: int = 0) -> Iterator[tuple[int, LayerNode, bool]]:
        """``(depth, node, whether its numbers are printed)`` in printing order.

        A node whose only child is printed below it leaves the numbers to that child.
        """
        open_below = max_level is None or level < max_level
        yield level, self, not (open_below and len(self.children_name) == 1)
        if open_below:
            for node in self.children_name.values():
                yield from node.rows(max_level, level + 1)


def display_parameters(model: nn.Module | Mapping[str, Tensor], max_level: int | None = None) -> tuple[str, LayerNode]:
    """Count the parameters and buffers of a model by module.

    Args:
        model: a module or a state dict.
        max_level: how many levels below the model to print; None for all.

    Returns:
        A table as text (name, elements, share, MB), and the tree it was printed from. Tensors that share memory
        are marked ``(shared)`` after their first sight and counted once.

    >>> text, node = display_parameters(nn.Linear(3, 2))
    >>> print(text.strip())
    LAYER NAME 	        #PARAMS	     RATIO	 MEM(MB)
    --model:   	              8	   100.00%	    0.00
      --weight:	              6	    75.00%	    0.00
      --bias:  	              2	    25.00%	    0.00
    >>> node.value[0]
    8
    """
    root = LayerNode("model", "model")
    seen: set[int] = set()
    for name, tensor in (model.state_dict() if isinstance(model, nn.Module) else model).items():
        _add(root, name.split("."), tensor, seen)
    return _table(root, max_level), root


def _add(root: LayerNode, path: list[str], tensor: Tensor, seen: set[int]) -> None:
    shared = tensor.numel() > 0 and tensor.data_ptr() in seen
    seen.add(tensor.data_ptr())
    size = 0 if shared else tensor.numel()
    node = root
    node.value[0] += size
    node.value[1] += size * tensor.element_size() / _MEGABYTE
    for part in path:
        node = node.child(part)
        node.value[0] += size
        node.value[1] += size * tensor.element_size() / _MEGABYTE
    if shared:
        node.name += "(shared)"
        node.fullname += "(shared)"


def _table(root: LayerNode, max_level: int | None) -> str:
    total = root.value[0]
    names = [
        (f"{'  ' * level}--{node.name}{':' if numbers else ''}", node if numbers else None)
        for level, node, numbers in root.rows(max_level)
    ]
    # Room for the colon is kept on rows without numbers too.
    width = max(len(name) + (node is None) for name, node in names)
    lines = [f"{'LAYER NAME':{width}}\t{'#PARAMS':>15}\t{'RATIO':>10}\t{'MEM(MB)':>8}"]
    for name, node in names:
        line = f"{name:{width}}"
        if node is not None:
            ratio = node.value[0] / total if total else 0.0
            line += f"\t{node.value[0]:>15,}\t{ratio:>10.2%}\t{node.value[1]:>8.2f}"
        lines.append(line)
    return "\n" + "\n".join(lines) + "\n"
