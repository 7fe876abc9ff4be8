"""Chapter 7: the whole model; its size derived piece by piece; no future in the past."""

import math

import pytest
import torch

from minigpt import GPT, GPTConfig, cross_entropy
from minigpt.attention import MultiHeadAttention
from minigpt.gpt import evaluating


def test_the_full_model_has_10_788_929_parameters():
    V, T, C, layers = 65, 256, 384, 6
    tokens, positions = V * C, T * C
    attention = C * 3 * C + (C * C + C)  # q, k and v without biases; the output projection with one
    mlp = (C * 4 * C + 4 * C) + (4 * C * C + C)
    norms = 2 * 2 * C  # two LayerNorms, a scale and a shift each
    head = 2 * C + (C * V + V)  # the last LayerNorm and the output layer
    assert tokens + positions + layers * (attention + mlp + norms) + head == 10_788_929
    assert sum(p.numel() for p in GPT(GPTConfig()).parameters()) == 10_788_929


def test_logits_have_one_row_of_scores_for_each_position(small_gpt):
    assert small_gpt(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 11)
    assert small_gpt(torch.zeros(3, 16, dtype=torch.long)).shape == (3, 16, 11)


def assert_the_future_is_hidden(model):
    idx = torch.randint(11, (2, 16))
    with evaluating(model):
        logits = model(idx)
        for t in range(1, 16):
            changed = idx.clone()
            changed[:, t:] = (changed[:, t:] + 1) % 11
            torch.testing.assert_close(model(changed)[:, :t], logits[:, :t], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(model(changed)[:, t:], logits[:, t:])


def test_changing_a_later_symbol_never_changes_an_earlier_logit(small_gpt):
    assert_the_future_is_hidden(small_gpt)


def test_planted_a_model_that_sees_the_future_is_caught(small_gpt, monkeypatch):
    def no_mask(self, x, cache=None):
        q, k, v = self.project(x)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    monkeypatch.setattr(MultiHeadAttention, "forward", no_mask)
    with pytest.raises(AssertionError):
        assert_the_future_is_hidden(small_gpt)


def test_positions_matter(small_gpt):
    small_gpt.eval()
    idx = torch.tensor([[1, 2, 3], [2, 1, 3]])
    logits = small_gpt(idx)
    assert not torch.allclose(logits[0, -1], logits[1, -1])
    torch.nn.init.zeros_(small_gpt.position_embedding.weight)  # without them the past of one layer is a bag
    one_layer = small_gpt
    one_layer.blocks = one_layer.blocks[:1]
    logits = one_layer(idx)
    torch.testing.assert_close(logits[0, -1], logits[1, -1], atol=1e-5, rtol=1e-5)


def test_the_attention_is_what_the_model_uses(small_gpt):
    idx = torch.randint(11, (2, 9))
    weights = small_gpt.attention(idx)
    assert small_gpt.training  # the mode it was found in
    assert weights.shape == (2, 2, 4, 9, 9)
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 4, 9))
    small_gpt.eval()
    x = small_gpt.embed(idx)
    for layer, block in enumerate(small_gpt.blocks):
        v = block.attention.project(block.norm1(x))[2]
        mixed = (weights[layer] @ v).transpose(1, 2).flatten(2)
        x = x + block.attention.proj(mixed)
        x = x + block.feed_forward(block.norm2(x))
    torch.testing.assert_close(small_gpt.head(small_gpt.norm(x)), small_gpt(idx), atol=1e-4, rtol=1e-4)


def test_a_fresh_model_knows_nothing():
    model = GPT(GPTConfig(n_layer=2, n_embd=64, n_head=2, block_size=32))
    idx = torch.randint(65, (8, 32))
    assert cross_entropy(model(idx), torch.randint(65, (8, 32))).item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_embd": 100, "n_head": 3}, "n_embd is 100: it must be divisible by n_head, which is 3"),
        ({"block_size": 0}, "block_size is 0: it must be a whole number of at least 1"),
        ({"n_layer": -1}, "n_layer is -1"),
        ({"vocab_size": 65.0}, "vocab_size is 65.0"),
        ({"n_head": True}, "n_head is True"),
        ({"dropout": 1.2}, "dropout is 1.2: it must be a number from 0 up to, but not including, 1"),
        ({"dropout": 1}, "dropout is 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"dropout": "0.1"}, "dropout is '0.1'"),
    ],
)
def test_nonsense_is_refused_by_name(sizes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**sizes)


def test_a_sequence_that_does_not_fit_says_what_to_do(small_gpt):
    with pytest.raises(ValueError, match=r"17 symbols, but block_size is 16: keep the last ones, idx\[:, -16:\]"):
        small_gpt(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        small_gpt(torch.zeros(5, dtype=torch.long))


def test_its_repr_tells_sizes_and_pieces(small_gpt):
    assert "block_size=16" in repr(small_gpt)
    assert f"{sum(p.numel() for p in small_gpt.parameters()):,} parameters" in repr(small_gpt)
    assert "(feed_forward)" in repr(small_gpt)


def test_evaluating_restores_the_mode_of_every_module(small_gpt):
    small_gpt.train()
    small_gpt.blocks[0].eval()  # a part that someone froze
    before = [module.training for module in small_gpt.modules()]
    with evaluating(small_gpt):
        assert not any(module.training for module in small_gpt.modules())
    assert [module.training for module in small_gpt.modules()] == before


def test_evaluating_restores_the_mode_even_after_an_error(small_gpt):
    def fail_inside():
        with evaluating(small_gpt):
            assert not small_gpt.training
            assert not torch.is_grad_enabled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert small_gpt.training
    assert torch.is_grad_enabled()
