"""Muon (chapter 10): an optimizer for the matrices inside a model.

AdamW sees a matrix as many separate numbers. Muon sees it whole: it makes all directions of the update equally long, so
that what the gradient hardly mentions is learned as fast as what it shouts (Jordan et al. 2024).
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring every singular value of each matrix near 1 and keep its directions: about U V^T of U S V^T.

    Newton-Schulz iteration with the quintic of Jordan et al. (2024): products of matrices, no decomposition. Values
    above about 0.002 of the matrix's norm end between about 0.7 and 1.2, which is near enough; smaller ones grow some
    hundredfold.

    Shapes:
        matrices: (..., rows, columns)
        returns: (..., rows, columns)
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.reshape(-1, *matrices.shape[-2:])  # (n, rows, columns)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # no singular value above 1
    tall = x.size(1) > x.size(2)
    x = x.mT.contiguous() if tall else x
    for _ in range(steps):
        square = x @ x.mT  # (n, rows, rows), and rows is the shorter side
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b square + c square²
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + polynomial x
    return (x.mT if tall else x).reshape(matrices.shape)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized (Jordan et al. 2024), with decoupled weight decay. Matrices of one shape go together.

    Args:
        params: matrices, (rows, columns) each.
        lr: how far a step goes; as every update has the same size, it does not depend on the model's.
        momentum: share of the running mean that is kept.
        weight_decay: a step also takes lr * weight_decay of each number away.
        dtype: of the products. 16 bits are enough for a direction; Jordan et al. take no more.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "dtype": dtype})
        for group in self.param_groups:
            group["params"].sort(key=lambda p: tuple(p.shape))
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(f"Muon trains matrices, not a parameter of shape {tuple(p.shape)}: use AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix once, by its gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for _, same_shape in groupby((p for p in group["params"] if p.grad is not None), key=lambda p: p.shape):
                params = list(same_shape)
                gradients = torch.stack([p.grad for p in params])  # (n, rows, columns)
                means = torch.stack([self._mean(p).lerp_(p.grad, 1 - momentum) for p in params])
                updates = orthogonalize(gradients.lerp(means, momentum).to(group["dtype"]))  # one step ahead (Nesterov)
                rows, columns = params[0].shape
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - lr * group["weight_decay"])
                    p.sub_(update, alpha=lr * max(1, rows / columns) ** 0.5)

    def _mean(self, p: Tensor) -> Tensor:
        """The running mean of p's gradients."""
        state = self.state[p]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(p)
        return state["mean"]
