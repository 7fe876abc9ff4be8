"""Chapters 3, 4 and 5: the weights, one head, many heads, each against torch's own; and the bugs these tests catch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import minigpt.attention
from minigpt import Head, MultiHeadAttention, attention_weights
from minigpt.attention import attend
from minigpt.generation import LayerCache

B, T, C, N_HEAD = 3, 7, 24, 4


def assert_weights_are_right():
    q, k = torch.randn(B, T, 8), torch.randn(B, T, 8)
    weights = attention_weights_now(q, k)
    expected = F.scaled_dot_product_attention(q, k, torch.eye(T).expand(B, T, T), is_causal=True)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(B, T))
    assert (weights.triu(1) == 0).all()  # exactly: nothing of the future


def assert_head_equals_torch():
    head, x = Head(C, 8), torch.randn(B, T, C)
    expected = F.scaled_dot_product_attention(head.query(x), head.key(x), head.value(x), is_causal=True)
    torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=1e-5)


def assert_heads_equal_torch_and_a_list_of_heads():
    attention, x = MultiHeadAttention(C, N_HEAD).eval(), torch.randn(B, T, C)
    # torch's own layer, with the same weights
    torchs = nn.MultiheadAttention(C, N_HEAD, bias=True, batch_first=True).eval()
    nn.init.zeros_(torchs.in_proj_bias)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(attention.qkv.weight)
        torchs.out_proj.weight.copy_(attention.proj.weight)
        torchs.out_proj.bias.copy_(attention.proj.bias)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected, expected_weights = torchs(x, x, x, attn_mask=future, average_attn_weights=False)
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.weights(x), expected_weights, atol=1e-5, rtol=1e-5)
    # a list of heads, each with its slice of the weights
    heads, size = [Head(C, C // N_HEAD) for _ in range(N_HEAD)], C // N_HEAD
    for i, head in enumerate(heads):
        own = slice(i * size, (i + 1) * size)
        for part, layer in enumerate((head.query, head.key, head.value)):
            layer.weight = nn.Parameter(attention.qkv.weight[part * C : (part + 1) * C][own].detach().clone())
    side_by_side = torch.cat([head(x) for head in heads], dim=-1)
    torch.testing.assert_close(attention(x), attention.proj(side_by_side), atol=1e-5, rtol=1e-5)


def attention_weights_now(q, k):
    return minigpt.attention.attention_weights(q, k)


def test_weights_equal_torchs():
    assert_weights_are_right()


def test_a_head_equals_torchs():
    assert_head_equals_torch()


def test_many_heads_equal_torchs_layer_and_a_list_of_heads():
    assert_heads_equal_torch_and_a_list_of_heads()


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def weights_with(scale=None, mask="lower", value=float("-inf"), dim=-1, q_is_k=False):
    """attention_weights with one thing changed."""

    def weights(q, k):
        scores = (k if q_is_k else q) @ k.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool)
        seen = {"lower": seen.tril(), "upper": seen.triu(), "none": seen, "strict": seen.tril(1)}[mask]
        return scores.masked_fill(~seen, value).softmax(dim=dim)

    return weights


WEIGHT_BUGS = {
    "no scale": weights_with(scale=1.0),
    "scale of n_embd": weights_with(scale=C**-0.5),
    "no mask": weights_with(mask="none"),
    "mask upside down": weights_with(mask="upper"),
    "mask one too far": weights_with(mask="strict"),
    "finite mask": weights_with(value=-1.0),
    "softmax over the queries": weights_with(dim=-2),
    "keys ask themselves": weights_with(q_is_k=True),
}


@pytest.mark.parametrize("bug", WEIGHT_BUGS)
def test_planted_in_the_weights(bug, monkeypatch):
    monkeypatch.setattr(minigpt.attention, "attention_weights", WEIGHT_BUGS[bug])
    for check in (assert_weights_are_right, assert_head_equals_torch):
        with pytest.raises(AssertionError):
            check()


def test_the_test_of_planted_bugs_passes_what_is_right(monkeypatch):
    monkeypatch.setattr(minigpt.attention, "attention_weights", weights_with())
    assert_weights_are_right()
    assert_head_equals_torch()


def view_without_transpose(self, x):
    return tuple(part.reshape(x.size(0), self.n_head, x.size(1), -1) for part in self.qkv(x).chunk(3, dim=-1))


def qkv_in_another_order(self, x):
    k, q, v = MULTI_HEAD_PROJECT(self, x)
    return q, k, v


def heads_from_the_wrong_axis(self, x):
    parts = self.qkv(x).chunk(3, dim=-1)
    return tuple(p.view(*x.shape[:2], self.head_size, self.n_head).permute(0, 3, 1, 2) for p in parts)


MULTI_HEAD_PROJECT = MultiHeadAttention.project
PROJECT_BUGS = [view_without_transpose, qkv_in_another_order, heads_from_the_wrong_axis]


@pytest.mark.parametrize("bug", PROJECT_BUGS, ids=lambda bug: bug.__name__)
def test_planted_in_the_projection(bug, monkeypatch):
    monkeypatch.setattr(MultiHeadAttention, "project", bug)
    with pytest.raises(AssertionError):
        assert_heads_equal_torch_and_a_list_of_heads()


# ── the fast path, the cache, dropout, errors ────────────────────────────────────────────────────────────────────────


def test_the_fast_path_equals_the_explicit_weights():
    attention, x = MultiHeadAttention(C, N_HEAD).eval(), torch.randn(B, T, C)
    v = attention.project(x)[2]
    mixed = (attention.weights(x) @ v).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(attention(x), attention.proj(mixed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", [T, 3, 1])
def test_attending_equals_the_explicit_weights_in_16_bits_as_well(queries):
    q, k, v = torch.randn(B, N_HEAD, queries, 6), torch.randn(B, N_HEAD, T, 6), torch.randn(B, N_HEAD, T, 6)
    expected = attention_weights(q, k) @ v
    torch.testing.assert_close(attend(q, k, v), expected, atol=1e-5, rtol=1e-5)
    in_16_bits = attend(*(part.bfloat16() for part in (q, k, v)))
    assert in_16_bits.dtype == torch.bfloat16
    torch.testing.assert_close(in_16_bits.float(), expected, atol=0.03, rtol=0.03)


def test_more_queries_than_keys_cannot_attend():
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match="there are 3 queries but only 2 keys"):
            attend(*(torch.randn(1, T, 4, dtype=dtype) for T in (3, 2, 2)))


def test_many_heads_drop_weights_in_training_only(monkeypatch):
    asked = []
    monkeypatch.setattr(minigpt.attention, "attend", lambda q, k, v, p: asked.append(p) or v)
    attention, x = MultiHeadAttention(C, N_HEAD, dropout=0.3), torch.randn(B, T, C)
    attention(x)
    attention.eval()(x)
    assert asked == [0.3, 0.0]


def test_dropout_on_the_weights_takes_some_and_keeps_the_mean(monkeypatch):
    q, k, v = torch.randn(B, N_HEAD, T, 6), torch.randn(B, N_HEAD, T, 6), torch.randn(B, N_HEAD, T, 6)
    exact = attention_weights(q, k) @ v
    mean = sum(attend(q, k, v, 0.5) for _ in range(2000)) / 2000
    torch.testing.assert_close(mean, exact, atol=0.15, rtol=0.0)
    keep = torch.rand(B, N_HEAD, T, T) > 0.5
    monkeypatch.setattr(minigpt.attention, "dropout", lambda weights, p: weights * keep / (1 - p))
    torch.testing.assert_close(attend(q, k, v, 0.5), (attention_weights(q, k) * keep * 2) @ v, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 4], [4, 2, 1]])
def test_with_a_cache_any_pieces_give_the_same(parts):
    attention, x = MultiHeadAttention(C, N_HEAD).eval(), torch.randn(B, T, C)
    cache = LayerCache((B, N_HEAD, T, C // N_HEAD), x)
    pieces = [attention(part, cache) for part in x.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), attention(x), atol=1e-5, rtol=1e-5)
    assert cache.length == T


def test_fewer_queries_than_keys_are_the_last_positions():
    q, k = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    torch.testing.assert_close(attention_weights(q[:, 4:], k), attention_weights(q, k)[:, 4:])


def test_dropout_falls_on_the_weights_only_in_training():
    head, x = Head(C, 8, dropout=0.5), torch.randn(B, T, C)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))
    torch.testing.assert_close(head.train().weights(x).sum(-1), torch.ones(B, T))  # shown without dropout


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_weights(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), "head_size 4 and k has 5"),
        (lambda: attention_weights(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4)), "3 queries but only 2 keys"),
        (lambda: MultiHeadAttention(10, 3), "n_embd is 10 and n_head 3"),
        (lambda: MultiHeadAttention(10, 0), "n_head 0"),
    ],
)
def test_errors_name_the_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
