"""The processes that train one model together, each on its part of every batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Group:
    """A process of several that PyTorch has joined in a process group; by default the only one.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def part(self, items: Sequence[ItemT]) -> Sequence[ItemT]:
        """This process's items: as many as every other one's, since vectors are gathered in equal shapes.

        Args:
            items: The same in all processes; the last ones are left out where they cannot be spread evenly.
        """
        return items[: len(items) - len(items) % self.size][self.rank :: self.size]

    def average(self, parameters: Iterable["torch.Tensor"]) -> None:
        """Puts the mean of all processes' gradients in place of this one's."""
        if self.size == 1:
            return
        import torch

        for one in parameters:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
            torch.distributed.all_reduce(one.grad)
            one.grad /= self.size

    def total(self, value: float, like: "torch.Tensor") -> float:
        """The sum of a number over all processes.

        Args:
            value: This process's.
            like: A tensor of the device by which processes talk.
        """
        if self.size == 1:
            return value
        import torch

        found = torch.tensor(value, dtype=torch.float64, device=like.device)
        torch.distributed.all_reduce(found)
        return float(found)


ALONE = Group()
"""A process that trains alone."""
