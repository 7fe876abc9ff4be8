"""Chapter 5: each wrong answer is told its own mistake."""

import copy

import pytest
import torch
from torch import nn

from minigpt import GPTConfig, MultiHeadAttention, attention_weights
from minigpt.exercises.multi_head import check_many_heads, check_silence, check_split_heads


class Small(nn.Module):
    """A model with an attention layer where the chapter's has it."""

    def __init__(self):
        super().__init__()
        self.config = GPTConfig(vocab_size=9, block_size=8, n_embd=16, n_head=4)
        self.symbol, self.attention, self.output = nn.Embedding(9, 16), MultiHeadAttention(16, 4), nn.Linear(16, 9)

    def forward(self, idx):
        return self.output(self.attention(self.symbol(idx)))


def test_every_head_is_silenced_in_turn_and_the_layer_put_back(solve):
    four = Small()
    whole = four.attention
    names = solve("ex-05-3", four=four, four_loss=2.0, val_ids=torch.randint(9, (40,)))
    assert names["four"].attention is whole


def cut(x, n_head):
    return x.view(*x.shape[:2], n_head, -1).transpose(1, 2)


def cut_in_memory_order(x, n_head):
    return x.reshape(x.size(0), n_head, x.size(1), -1)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("one tensor, not a tuple", lambda x, h: tuple(x.chunk(h, dim=-1))),
        (r"transpose\(1, 2\) is missing", lambda x, h: x.view(*x.shape[:2], h, -1)),
        ("head 0 holds whole positions", cut_in_memory_order),
        ("every .th channel", lambda x, h: x.view(*x.shape[:2], -1, h).permute(0, 3, 1, 2)),
        ("it must be", lambda x, h: x),
        ("wrong head or at the wrong position", lambda x, h: cut(x, h).flip(1)),
    ],
)
def test_wrong_cut(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_split_heads(answer)


def many_heads(x, qkv, proj, n_head, cut=cut, weigh=attention_weights, join=None, mix=True):
    q, k, v = (cut(part, n_head) for part in qkv(x).chunk(3, dim=-1))
    out = weigh(q, k) @ v
    joined = out.transpose(1, 2).flatten(2) if join is None else join(out)
    return proj(joined) if mix else joined


def wrong(**change):
    return lambda x, qkv, proj, n_head: many_heads(x, qkv, proj, n_head, **change)


def without_mask(q, k):
    return (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(-1)


def with_scale(scale):
    def weigh(q, k):
        mask = torch.ones(q.size(-2), q.size(-2), dtype=torch.bool).tril()
        return (q @ k.transpose(-2, -1) * scale(q)).masked_fill(~mask, -torch.inf).softmax(-1)

    return weigh


def in_memory_order(out):
    return out.reshape(out.size(0), out.size(2), -1)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("the projection is missing", wrong(mix=False)),
        ("the mask is missing", wrong(weigh=without_mask)),
        (r"divided by sqrt\(n_embd\)", wrong(weigh=with_scale(lambda q: (q.size(-1) * q.size(1)) ** -0.5))),
        ("not scaled", wrong(weigh=with_scale(lambda q: 1.0))),
        (r"joined without transpose\(1, 2\)", wrong(join=in_memory_order)),
        ("cut into heads has no transpose", wrong(cut=cut_in_memory_order)),
        ("cut into heads has no transpose", wrong(cut=cut_in_memory_order, join=in_memory_order)),
        ("return one tensor", lambda *_: [1]),
        ("the shape is", lambda x, *_: x[:, :1]),
        (r"at \(0, 0, 0\) stands", lambda x, *_: x),
    ],
)
def test_wrong_many_heads(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_many_heads(answer)


def test_many_heads_by_hand_is_right(capsys):
    """The whole of it without `attention_weights` or `view`, as another reader would write it."""

    def by_loop(x, qkv, proj, n_head):
        q, k, v = qkv(x).chunk(3, dim=-1)
        size = x.size(-1) // n_head
        outs = []
        for i in range(n_head):
            mine = slice(i * size, (i + 1) * size)
            outs.append(with_scale(lambda q: q.size(-1) ** -0.5)(q[..., mine], k[..., mine]) @ v[..., mine])
        return proj(torch.cat(outs, dim=-1))

    check_many_heads(by_loop)
    assert "Right" in capsys.readouterr().out


def quiet(change):
    """A `silence` that works on a copy and sets to 0 what `change` picks."""

    def silence(attention: MultiHeadAttention, head: int) -> nn.Module:
        layer = copy.deepcopy(attention)
        with torch.no_grad():
            change(layer, slice(head * layer.head_size, (head + 1) * layer.head_size))
        return layer

    return silence


def zero_columns(layer, mine):
    layer.proj.weight[:, mine] = 0


def zero_value(layer, mine):
    layer.qkv.weight.chunk(3)[2][mine] = 0


def zero_columns_and_bias(layer, mine):
    zero_columns(layer, mine)
    layer.proj.bias.zero_()


def in_place(attention, head):
    with torch.no_grad():
        zero_columns(attention, slice(head * attention.head_size, (head + 1) * attention.head_size))
    return attention


@pytest.mark.parametrize("change", [zero_columns, zero_value])
def test_both_ways_to_silence_a_head_are_right(change, capsys):
    check_silence(quiet(change))
    assert "Right" in capsys.readouterr().out


def columns(layer, start, end):
    """Zeros in these columns of the projection, whosever they are."""
    return quiet(lambda other, mine: other.proj.weight[:, start:end].zero_())(layer, 0)


def hooked(attention, head):
    """Silent, but the layer that was given is so, too."""
    size = attention.head_size
    mute = torch.ones(attention.n_head * size)
    mute[head * size : (head + 1) * size] = 0
    attention.proj.register_forward_pre_hook(lambda module, args: (args[0] * mute,))
    return copy.deepcopy(attention)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("still writes as before", lambda attention, head: copy.deepcopy(attention)),
        ("only column 0", lambda layer, head: columns(layer, head, head + 1)),
        ("begin at head", lambda layer, head: columns(layer, head, head + layer.head_size)),
        ("a plain average", quiet(lambda layer, mine: layer.qkv.weight.chunk(3)[1][mine].zero_())),
        ("writes something else now", hooked),
        ("the rows of proj.weight", quiet(lambda layer, mine: layer.proj.weight[mine].zero_())),
        ("a plain average", quiet(lambda layer, mine: layer.qkv.weight[mine].zero_())),
        ("work on a deepcopy", in_place),
        ("heads count from 0", lambda attention, head: quiet(zero_columns)(attention, (head - 1) % attention.n_head)),
        ("bias of the projection is gone", quiet(zero_columns_and_bias)),
        ("not the only thing", quiet(lambda layer, mine: layer.qkv.weight.chunk(3)[2].zero_())),
        ("return the layer, not dict", lambda attention, head: dict(attention.state_dict())),
    ],
)
def test_wrong_silence(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_silence(answer)
