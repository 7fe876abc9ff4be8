"""Chapter 10: the modern pieces against torch's and Hugging Face's own, and the bugs this catches."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_generation import assert_cache_changes_nothing
from test_gpt import assert_the_future_is_hidden
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from minigpt import CharTokenizer, GPTConfig, ModernGPT, cross_entropy, generate, load_model, modern, save_model
from minigpt.modern import ModernAttention, ModernBlock, rms_norm, rotate
from minigpt.view.explorer import attention_explorer

C, N_HEAD, HEAD_SIZE = 24, 4, 6


# ── norm and rotation ────────────────────────────────────────────────────────────────────────────────────────────────


def test_rms_norm_is_torchs():
    x = torch.randn(2, 5, C) * 7
    torch.testing.assert_close(rms_norm(x), nn.RMSNorm(C, elementwise_affine=False)(x))
    torch.testing.assert_close(rms_norm(x).square().mean(dim=-1), torch.ones(2, 5))


def assert_rotation_is_hugging_faces():
    x = torch.randn(2, N_HEAD, 9, HEAD_SIZE)
    speeds = 1 / 1024 ** torch.linspace(0, 1, HEAD_SIZE // 2)
    for start in (0, 5):
        angles = torch.outer(torch.arange(start, start + 9).float(), speeds).repeat(1, 2)  # (T, head_size)
        theirs, _ = apply_rotary_pos_emb(x, x, angles.cos()[None], angles.sin()[None])
        torch.testing.assert_close(modern.rotate(x, start), theirs)


def assert_only_the_distance_counts():
    q, k = torch.randn(HEAD_SIZE), torch.randn(HEAD_SIZE)

    def product(at: int, distance: int) -> float:
        return (modern.rotate(q[None], at + distance) * modern.rotate(k[None], at)).sum().item()

    for distance in range(7):
        assert product(100, distance) == pytest.approx(product(0, distance), abs=1e-3)
    assert abs(product(0, 1) - product(0, 2)) > 1e-3
    assert modern.rotate(q[None]).norm().item() == pytest.approx(q.norm().item())


def test_a_rotation_is_hugging_faces():
    assert_rotation_is_hugging_faces()


def test_the_product_of_two_rotated_vectors_depends_on_their_distance_only():
    assert_only_the_distance_counts()


def test_planted_a_rotation_of_neighboring_numbers_is_another_one(monkeypatch):
    def neighbors(x, start=0):
        order = torch.arange(HEAD_SIZE).view(2, -1).T.flatten()
        return rotate(x[..., order], start)[..., order.argsort()]

    monkeypatch.setattr(modern, "rotate", neighbors)
    with pytest.raises(AssertionError):
        assert_rotation_is_hugging_faces()


def test_planted_a_start_that_is_forgotten_is_caught(monkeypatch):
    monkeypatch.setattr(modern, "rotate", lambda x, start=0: rotate(x))
    with pytest.raises(AssertionError):
        assert_rotation_is_hugging_faces()
    with pytest.raises(AssertionError):
        assert_only_the_distance_counts()


# ── attention and block ──────────────────────────────────────────────────────────────────────────────────────────────


def assert_block_is_the_formula():
    """Every product written out for each head and position; the softmax is torch's."""
    block, x = ModernBlock(C, N_HEAD).eval(), torch.randn(2, 7, C)
    attention, mlp = block.attention, block.feed_forward
    normed = nn.RMSNorm(C, elementwise_affine=False)
    small = nn.RMSNorm(HEAD_SIZE, elementwise_affine=False)
    h, out = normed(x), torch.zeros_like(x)
    for head in range(N_HEAD):
        part = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
        q, k, v = (h @ piece.weight[part].T for piece in (attention.query, attention.key, attention.value))
        q, k = rotate(small(q)), rotate(small(k))
        for t in range(7):
            scores = torch.stack([(q[:, t] * k[:, s]).sum(-1) for s in range(t + 1)], dim=-1) / math.sqrt(HEAD_SIZE)
            out[:, t, part] = sum(w[:, None] * v[:, s] for s, w in enumerate(scores.softmax(-1).unbind(-1)))
    y = x + out @ attention.proj.weight.T
    y = y + torch.clamp(normed(y) @ mlp.up.weight.T, min=0) ** 2 @ mlp.down.weight.T
    torch.testing.assert_close(block(x), y, atol=1e-4, rtol=1e-4)
    return block(x)


def test_a_block_is_the_formula():
    assert_block_is_the_formula()


PLANTS = {
    "keys are not normalized": (
        ModernAttention, "project",
        lambda self, x, start=0: _project(self, x, start, norm_keys=False),
    ),
    "queries are not rotated": (
        ModernAttention, "project",
        lambda self, x, start=0: _project(self, x, start, rotate_queries=False),
    ),
    "the ReLU is not squared": (modern.ModernFeedForward, "forward", lambda self, x: self.down(F.relu(self.up(x)))),
    "the MLP reads the stream before it is normalized": (
        ModernBlock, "forward",
        lambda self, x, cache=None: (lambda y: y + self.feed_forward(y))(x + self.attention(rms_norm(x), cache)),
    ),
}  # fmt: skip


def _project(self, x, start, norm_keys=True, rotate_queries=True):
    split_heads = (*x.shape[:2], self.n_head, self.head_size)
    q, k, v = (part(x).view(split_heads).transpose(1, 2) for part in (self.query, self.key, self.value))
    q, k = rms_norm(q), rms_norm(k) if norm_keys else k
    return rotate(q, start) if rotate_queries else q, rotate(k, start), v


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_in_the_block(plant, monkeypatch):
    monkeypatch.setattr(*PLANTS[plant])
    with pytest.raises(AssertionError):
        assert_block_is_the_formula()


# ── the model keeps the promise ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_modern() -> ModernGPT:
    """As `small_gpt`: large weights everywhere, the branches that start at zero included."""
    model = ModernGPT(GPTConfig(vocab_size=11, block_size=16, n_embd=32, n_head=4, n_layer=2, dropout=0.3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_changing_a_later_symbol_never_changes_an_earlier_logit(small_modern):
    assert_the_future_is_hidden(small_modern)


def test_the_cache_changes_nothing(small_modern):
    assert_cache_changes_nothing(small_modern)


def test_planted_a_cache_that_forgets_where_it_stands_is_caught(small_modern, monkeypatch):
    monkeypatch.setattr(modern, "rotate", lambda x, start=0: rotate(x))
    with pytest.raises(AssertionError):
        assert_cache_changes_nothing(small_modern)


def test_planted_a_cache_that_forgets_the_symbol_before_is_caught(small_modern, monkeypatch):
    embed = ModernGPT.embed
    monkeypatch.setattr(ModernGPT, "embed", lambda self, idx, start=0, before=None: embed(self, idx, start))
    with pytest.raises(AssertionError):
        assert_cache_changes_nothing(small_modern)


def test_a_symbol_gets_a_share_of_the_one_before(small_modern):
    symbols, share = small_modern.token_embedding.weight, small_modern.smear
    first, second, third = small_modern.embed(torch.tensor([[4, 0, 7]]))[0]
    torch.testing.assert_close(first, symbols[4])
    torch.testing.assert_close(second, symbols[0] + share * symbols[4])
    torch.testing.assert_close(third, symbols[7] + share * symbols[0])
    alone = small_modern.embed(torch.tensor([[7]]), start=2, before=torch.tensor([[0]]))[0, 0]
    torch.testing.assert_close(alone, third)


def test_the_attention_is_what_the_model_uses(small_modern):
    idx = torch.randint(11, (2, 9))
    weights = small_modern.attention(idx)
    assert weights.shape == (2, 2, 4, 9, 9)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 4, 9))
    small_modern.eval()
    x = small_modern.embed(idx)
    for layer, block in enumerate(small_modern.blocks):
        v = block.attention.project(rms_norm(x))[2]
        x = x + block.attention.proj((weights[layer] @ v).transpose(1, 2).flatten(2))
        x = x + block.feed_forward(rms_norm(x))
    torch.testing.assert_close(small_modern.head(small_modern.norm(x)), small_modern(idx), atol=1e-4, rtol=1e-4)


def test_a_fresh_model_guesses_every_symbol_alike():
    model = ModernGPT(GPTConfig(n_layer=2, n_embd=64, n_head=2, block_size=32))
    idx = torch.randint(65, (8, 32))
    assert cross_entropy(model(idx), torch.randint(65, (8, 32))).item() == pytest.approx(math.log(65), abs=1e-5)
    x = torch.randn(2, 5, 64)
    assert all(torch.equal(block(x), x) for block in model.blocks)  # each passes its input on


def test_its_parameters_piece_by_piece():
    V, C, layers = 65, 128, 4
    model = ModernGPT(GPTConfig(vocab_size=V, block_size=128, n_embd=C, n_head=4, n_layer=layers))
    assert sum(p.numel() for p in model.parameters()) == 2 * V * C + C + layers * (4 * C * C + 2 * 4 * C * C)


def test_in_16_bits_attention_is_computed_in_16_bits(small_modern, monkeypatch):
    """A rotation in 32 bits would make the products slow again, and nothing would fail."""
    seen = []

    def attend(q, k, v):
        seen.append({part.dtype for part in (q, k, v)})
        return v

    monkeypatch.setattr(modern, "attend", attend)
    idx = torch.zeros(1, 5, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small_modern(idx)
    assert seen == [{torch.bfloat16}] * small_modern.config.n_layer
    small_modern(idx)
    assert seen[-1] == {torch.float32}


def test_a_model_in_16_bits_writes_the_same_with_and_without_a_cache(small_modern):
    short, idx = small_modern.bfloat16(), torch.zeros(1, 3, dtype=torch.long)
    assert generate(short, idx, 5, temperature=0).equal(generate(short, idx, 5, temperature=0, cache=False))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="n_embd / n_head is 3: rotary positions need an even size"):
        ModernGPT(GPTConfig(n_embd=12, n_head=4))
    model = ModernGPT(GPTConfig(vocab_size=11, block_size=16, n_embd=32, n_head=4, n_layer=1))
    with pytest.raises(ValueError, match="17 symbols, but block_size is 16"):
        model(torch.zeros(1, 17, dtype=torch.long))


def test_it_is_saved_and_looked_into_as_every_model_is(small_modern, tmp_path):
    tokenizer = CharTokenizer("abcdefghijk")
    loaded = load_model(save_model(small_modern, tmp_path, tokenizer))
    idx = torch.randint(11, (2, 9))
    assert type(loaded) is ModernGPT
    assert torch.equal(loaded(idx), small_modern.eval()(idx))
    assert "<" in attention_explorer(small_modern, tokenizer, "badge")._repr_html_()
