"""Dropout (chapter 6), fast on a CPU.

In training each number is set to zero with probability p and the others are scaled up, so that the sum stays what it
was on average (Srivastava et al. 2014). torch draws one random number for each; here one draw serves four.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, p: float) -> Tensor:
    """x with each number set to zero with probability p, and the others divided by 1 - p.

    On a CPU the mask comes from torch's generator 64 bits at a time, 16 for a number: p is rounded to a 65536th.

    Shapes:
        x: any; returns the same

    Raises:
        ValueError: p is not from 0 to 1.
    """
    limit = round(p * 2**16)
    if x.device.type != "cpu" or not 0 < limit < 2**16:
        return F.dropout(x, p)
    # From the lowest number to the highest, so that every bit is random:
    draws = torch.empty(x.numel() // 4 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)  # from -2**15 to 2**15 - 1, each as likely
    keep = (numbers >= limit - 2**15).to(x.dtype)
    return x * keep.mul_(1 / (1 - limit / 2**16))


class Dropout(nn.Dropout):
    """`nn.Dropout`, with the masks of `dropout`: nothing happens outside training, and never in place.

    Shapes:
        x: any; returns the same
    """

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
