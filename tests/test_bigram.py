"""Chapter 2: a table is a model, and its loss is what counting says."""

import math

import pytest
import torch
import torch.nn.functional as F

from minigpt import BigramLanguageModel, TrainConfig, cross_entropy, evaluate, generate, train


def counted_table(ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Log-probabilities of the next symbol by counting pairs, with add-one smoothing: (vocab_size, vocab_size)."""
    pairs = ids[:-1] * vocab_size + ids[1:]
    counts = torch.bincount(pairs, minlength=vocab_size**2).view(vocab_size, vocab_size) + 1.0
    return (counts / counts.sum(dim=1, keepdim=True)).log()


def test_logits_depend_on_the_current_symbol_alone():
    model = BigramLanguageModel(5)
    idx = torch.tensor([[0, 1, 2, 1], [4, 1, 3, 3]])
    logits = model(idx)
    assert logits.shape == (2, 4, 5)
    assert torch.equal(logits[0, 1], logits[0, 3])
    assert torch.equal(logits[0, 1], model.table.weight[1])
    assert (model.config.vocab_size, model.config.block_size) == (5, 8)


def test_cross_entropy_is_the_mean_of_minus_log_probability():
    logits, targets = torch.randn(3, 4, 7), torch.randint(7, (3, 4))
    probabilities = logits.softmax(dim=-1)
    surprise = [-math.log(probabilities[b, t, targets[b, t]]) for b in range(3) for t in range(4)]
    assert cross_entropy(logits, targets).item() == pytest.approx(sum(surprise) / 12, rel=1e-5)
    assert cross_entropy(torch.zeros(3, 4, 65), targets).item() == pytest.approx(math.log(65))
    transposed = F.cross_entropy(logits.transpose(0, 1).flatten(0, 1), targets.flatten())  # the planted bug
    assert cross_entropy(logits, targets).item() != pytest.approx(transposed.item())


def test_a_fresh_table_of_noise_starts_above_ln_65():
    model = BigramLanguageModel(65)
    loss = evaluate(model, torch.randint(65, (20_000,)))
    assert math.log(65) + 0.3 < loss < math.log(65) + 0.7  # E[log sum exp] of N(0, 1): ln 65 + 1/2


def test_training_finds_the_table_that_counting_gives(book_ids):
    tokenizer, train_ids, val_ids = book_ids
    V = tokenizer.vocab_size
    model = BigramLanguageModel(V)
    config = TrainConfig(steps=600, batch_size=64, learning_rate=3e-2, weight_decay=0.0, eval_every=600)
    train(model, train_ids, val_ids, config, progress=False)
    counted = -counted_table(train_ids, V)[val_ids[:-1], val_ids[1:]].mean().item()
    assert abs(evaluate(model, val_ids) - counted) < 0.06  # the preset, ten times as long, comes within 0.03


def test_a_bigram_writes(book_ids):
    model = BigramLanguageModel(book_ids[0].vocab_size)
    assert generate(model, torch.zeros(2, 3, dtype=torch.long), 20).shape == (2, 23)


@pytest.mark.parametrize("sizes", [{"vocab_size": 0}, {"vocab_size": 5, "block_size": 0}, {"vocab_size": 2.5}])
def test_nonsense_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        BigramLanguageModel(**sizes)
