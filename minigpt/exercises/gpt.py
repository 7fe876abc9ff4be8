"""The checks of chapter 7: counting parameters, the step of generation, tying the two ends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.exercises import Mistake, attempt, check, ended, right
from minigpt.gpt import GPT, GPTConfig


@check
def check_count(count: Callable[[GPTConfig], int]) -> None:
    """Is `count(config)` the number of parameters of a GPT of these sizes?"""
    for config in (GPTConfig(11, 8, 12, 3, 3), GPTConfig(50, 64, 32, 1, 5), GPTConfig()):
        given = attempt(count, config)
        if given is None:
            return
        assert type(given) is int, f"the answer is {given!r}: it must be a whole number"
        with torch.device("meta"):  # shapes only, no memory
            expected = sum(p.numel() for p in GPT(config).parameters())
        if given != expected:
            raise AssertionError(f"for {config} you count {given:,}, {_mistake(given - expected, config)}")
    right("10,788,929 for the full model, and the others as well.")


def _mistake(difference: int, config: GPTConfig) -> str:
    V, T, n, h, L = config.vocab_size, config.block_size, config.n_embd, config.n_head, config.n_layer
    block = 12 * n * n + 10 * n
    known = {
        3 * n * L: "the queries, keys and values have no bias in this model",
        -n * L: "each block has one bias of n_embd more: after the heads, or in the MLP's second layer",
        -2 * n * L: "2 n_embd are missing in each block: it has two LayerNorms, each with a scale and a shift",
        -(2 * L + 1) * n: "each LayerNorm has two vectors, a scale and a shift: 2 n_embd",
        -(4 * L + 2) * n: "the LayerNorms are missing: two in each block and one before the head",
        -4 * n * L: "4 n_embd are missing in each block: two LayerNorms of 2 n_embd, or the bias inside the MLP",
        -(n * n + n) * L: "the projection after the heads is missing in each block",
        -n * n * L: "one square matrix is missing in each block: the projection after the heads",
        -(6 * n * n + 3 * n) * L: "the MLP is four times as wide inside: n_embd to 4 n_embd and back",
        -2 * n: "the last LayerNorm, before the head, is missing",
        -V: "the head has a bias: one number for each symbol",
        -V * n: "the head has a matrix of its own: it is not tied to the embedding",
        -V * n - V: "the head is missing: n_embd to vocab_size, with a bias",
        -T * n: "the table of positions is missing",
        (V - T) * n: "the table of positions has a row for each position (block_size), not for each symbol",
        -(L - 1) * block: "you counted one block: there are n_layer of them",
        (h - 1) * 3 * n * n * L: "the heads share one projection, a slice for each: more heads are not more parameters",
    }  # fmt: skip
    return known.get(difference, f"which is {abs(difference):,} too {'many' if difference > 0 else 'few'}")


@check
def check_next(step: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Does `step(model, idx)` give the probabilities of the next symbol, as `generate` needs them?"""
    model = GPT(GPTConfig(vocab_size=10, block_size=6, n_embd=16, n_head=2, n_layer=2, dropout=0.3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    short, long = torch.randint(10, (3, 4)), torch.randint(10, (3, 9))
    for idx in (short, long):
        model.train()
        try:
            given = attempt(step, model, idx)
        except Mistake:
            raise
        except Exception as error:
            crop = "9 symbols do not fit into a block_size of 6: keep the last ones, idx[:, -block_size:]"
            too_long = idx is long and isinstance(error, ValueError)
            assert not too_long, crop
            raise AssertionError(ended(step, error)) from error
        if given is None:
            return
        _check_shape(given, idx)
        assert model.training, "the model was in train mode and is not any more: leave it as you found it"
        assert torch.equal(given, step(model, idx)), "two calls, two answers: dropout is still on, model.eval()"
        _check_values(given.float(), idx, model)
        assert not given.requires_grad, "the answer carries gradients: each step would keep all its work in memory"
        model.eval()
        step(model, idx)
        assert not model.training, "the model was in eval mode and is not any more: leave it as you found it"
    right("probabilities from the last block_size symbols, without dropout or gradients, and the mode restored.")


def _check_shape(given: Any, idx: Tensor) -> None:
    B, V = len(idx), 10
    assert isinstance(given, Tensor), f"the answer is a {type(given).__name__}: it must be a tensor (B, vocab_size)"
    whole = given.dim() == 3
    assert not whole, f"the shape is {tuple(given.shape)}: all positions answer, keep the last one, logits[:, -1]"
    assert given.shape == (B, V), f"the shape is {tuple(given.shape)}: it must be (B, vocab_size), here ({B}, {V})"


def _check_values(given: Tensor, idx: Tensor, model: GPT) -> None:
    def known(symbols: Tensor, position: int = -1, dim: int = -1) -> Tensor:
        model.eval()
        with torch.no_grad():
            return model(symbols)[:, position].softmax(dim)

    block_size = model.config.block_size
    last, first = idx[:, -block_size:], idx[:, :block_size]
    model.eval()
    logits = model(last)[:, -1].detach()
    if torch.allclose(given, known(last), atol=1e-5):
        return
    assert not torch.allclose(given, logits, atol=1e-5), "these are logits: a softmax turns them into probabilities"
    assert not torch.allclose(given, known(last, dim=0), atol=1e-5), (
        "the columns add up to 1, not the rows: the softmax runs over the batch; it belongs on the last axis"
    )
    assert not torch.allclose(given, known(last, position=0), atol=1e-5), (
        "this is what the first position guesses: the last one, logits[:, -1], has seen all symbols"
    )
    assert not torch.allclose(given, known(first), atol=1e-5), (
        "you keep the first block_size symbols: the next one follows the last ones, idx[:, -block_size:]"
    )
    assert torch.allclose(given.sum(-1), torch.ones(len(given)), atol=1e-4), "the rows do not add up to 1"
    raise AssertionError("these are not the probabilities of the model: which symbols does it see?")


@check
def check_tied(build: Callable[[GPTConfig], GPT]) -> None:
    """Does `build(config)` give a GPT whose head is its embedding, one matrix at both ends?"""
    for config in (GPTConfig(10, 6, 16, 2, 2), GPTConfig(8, 8, 24, 3, 1)):
        model = attempt(build, config)
        if model is None:
            return
        assert isinstance(model, GPT), f"the answer is a {type(model).__name__}: it must be a GPT"
        assert model.config == config, f"the model has the sizes {model.config}, asked for were {config}"
        matrix, symbols, positions = model.head.weight, model.token_embedding.weight, model.position_embedding.weight
        assert symbols is not positions, "the two tables are one now: only the head and the table of symbols should be"
        assert matrix is not positions, "the head is tied to the table of positions: it must be that of the symbols"
        if matrix is not symbols:
            copied = matrix.shape == symbols.shape and torch.equal(matrix, symbols)
            shared = matrix.data_ptr() == symbols.data_ptr()
            assert not shared, "they share memory, but are two parameters: assign the parameter itself, not its data"
            assert not copied, "the head holds a copy: equal now, but the first training step will part them"
            raise AssertionError("the head still has a matrix of its own")
        assert isinstance(matrix, nn.Parameter), "the matrix must stay a parameter, or nothing trains it"
        assert matrix.shape == (config.vocab_size, config.n_embd), f"the shared matrix has shape {tuple(matrix.shape)}"
        assert model.head.bias is not None, "the head lost its bias: only the matrix is shared"
        with torch.device("meta"):
            untied = sum(p.numel() for p in GPT(config).parameters())
        n = sum(p.numel() for p in model.parameters())
        saved = config.vocab_size * config.n_embd
        assert untied - n == saved, f"{untied - n:,} parameters are saved: it should be vocab_size * n_embd = {saved:,}"
        idx = torch.randint(config.vocab_size, (2, config.block_size))
        assert model(idx).shape == (2, config.block_size, config.vocab_size), "the logits have the wrong shape"
    right("one matrix, read at both ends, trained once.")
