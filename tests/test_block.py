"""Chapter 6: a block is torch's own pre-norm encoder layer; and the bugs this catches."""

import pytest
import torch
from torch import nn

from minigpt import Block, FeedForward

C, N_HEAD = 24, 4


def assert_block_equals_torch():
    block, x = Block(C, N_HEAD).eval(), torch.randn(3, 7, C)
    for parameter in block.parameters():  # no weight at its neutral value, so that each one matters
        nn.init.normal_(parameter, std=0.3)
    layer = nn.TransformerEncoderLayer(C, N_HEAD, 4 * C, 0.0, "relu", batch_first=True, norm_first=True).eval()
    nn.init.zeros_(layer.self_attn.in_proj_bias)
    first, second = block.feed_forward.net[0], block.feed_forward.net[2]
    pairs = [
        (layer.self_attn.in_proj_weight, block.attention.qkv.weight),
        (layer.self_attn.out_proj.weight, block.attention.proj.weight),
        (layer.self_attn.out_proj.bias, block.attention.proj.bias),
        (layer.linear1.weight, first.weight),
        (layer.linear1.bias, first.bias),
        (layer.linear2.weight, second.weight),
        (layer.linear2.bias, second.bias),
        (layer.norm1.weight, block.norm1.weight),
        (layer.norm1.bias, block.norm1.bias),
        (layer.norm2.weight, block.norm2.weight),
        (layer.norm2.bias, block.norm2.bias),
    ]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(block(x), layer(x, src_mask=mask, is_causal=True), atol=1e-4, rtol=1e-4)


def test_a_block_equals_torchs_layer():
    assert_block_equals_torch()


def post_norm(self, x, cache=None):
    x = self.norm1(x + self.attention(x))
    return self.norm2(x + self.feed_forward(x))


def no_residual(self, x, cache=None):
    return self.feed_forward(self.norm2(self.attention(self.norm1(x))))


def one_norm_for_both(self, x, cache=None):
    x = x + self.attention(self.norm1(x))
    return x + self.feed_forward(self.norm1(x))


def side_by_side(self, x, cache=None):
    return x + self.attention(self.norm1(x)) + self.feed_forward(self.norm2(x))


@pytest.mark.parametrize("bug", [post_norm, no_residual, one_norm_for_both, side_by_side], ids=lambda bug: bug.__name__)
def test_planted(bug, monkeypatch):
    monkeypatch.setattr(Block, "forward", bug)
    with pytest.raises(AssertionError):
        assert_block_equals_torch()


def test_the_mlp_works_on_each_position_alone():
    mlp, x = FeedForward(C), torch.randn(2, 5, C)
    assert mlp.net[0].out_features == 4 * C
    torch.testing.assert_close(mlp(x)[:, 2], mlp(x[:, 2]))
    changed = x.clone()
    changed[:, 3] += 1
    same = (mlp(changed) == mlp(x)).all(dim=-1)
    assert same.tolist() == [[True, True, True, False, True]] * 2


def test_dropout_is_off_in_eval_mode():
    block, x = Block(C, N_HEAD, dropout=0.5), torch.randn(2, 5, C)
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
