"""Low-rank updates of linear layers: a product of two narrow matrices is trained in place of the weights.

LoRA (Hu et al. 2021, arXiv:2106.09685): the layer's output gets ``scale * up(down(x))``, so that neither gradients nor
the optimiser's state of the weights themselves need memory.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from indexer.errors import IndexerError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LowRank:
    """The update of one weight.

    Attributes:
        down: float32, shape (rank, inputs).
        up: float32, shape (outputs, rank).
        scale: What their product is multiplied with.
    """

    down: "torch.Tensor"
    up: "torch.Tensor"
    scale: float

    def reset(self) -> None:
        """Draws the update anew, so that it is nothing yet: training begins at the base."""
        import torch

        with torch.no_grad():
            torch.nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
            self.up.zero_()

    def output(self, inputs: "torch.Tensor") -> "torch.Tensor":
        """What the layer's output gets, shape (..., outputs)."""
        from torch.nn.functional import linear

        return linear(linear(inputs, self.down), self.up) * self.scale

    @property
    def weight(self) -> "torch.Tensor":
        """What the weight gets, float32, shape (outputs, inputs)."""
        return self.up.detach() @ self.down.detach() * self.scale


def attach(module: Any, parameters: Mapping[str, "torch.Tensor"], rank: int, alpha: float) -> dict[str, LowRank]:
    """Gives linear layers an update that their outputs include from now on.

    Args:
        module: The model.
        parameters: Those that may be updated, by name; a layer whose weight is none of them stays as it is.
        rank: Rows of the narrow matrices.
        alpha: Scale of an update times its rank.

    Returns:
        The updates by the name of their weight.

    Raises:
        IndexerError: No layer can be updated.
    """
    import torch

    # A head that shares the table of token vectors is not called, and its update would change the table.
    tables = {id(one.weight) for one in module.modules() if isinstance(one, torch.nn.Embedding)}
    names = {id(one): name for name, one in parameters.items() if id(one) not in tables}
    found = {}
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear) and id(layer.weight) in names:
            outputs, inputs = layer.weight.shape
            down, up = (layer.weight.new_empty(shape).requires_grad_() for shape in ((rank, inputs), (outputs, rank)))
            found[names[id(layer.weight)]] = LowRank(down, up, alpha / rank)
            layer.register_forward_hook(partial(_add, found[names[id(layer.weight)]]))
    if not found:
        raise IndexerError("train.lora_rank: none of the model's weights is that of a linear layer; train all with 0")
    return found


def _add(update: LowRank, layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
    return output + update.output(inputs[0])
