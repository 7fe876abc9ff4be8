"""What the tests share: a small text, a small model, and the text the book trains on."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is promised, to the bit, is promised for the CPU

import pytest
import torch
from hypothesis import settings

from minigpt import GPT, CharTokenizer, GPTConfig, load_text, split

PLAY = "".join(
    f"{name}:\n{line}\n\n"
    for name, line in [
        ("ADA", "The night is long, and longer still the day."),
        ("BEN", "Then let us count the hours, one by one!"),
        ("ADA", "I counted them. They would not stay in line."),
    ]
    * 20
)


settings.register_profile("book", deadline=None)  # a busy machine takes its time
settings.load_profile("book")

# The models of the tests are too small to share between cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1337)


@pytest.fixture(scope="session")
def play() -> str:
    """A text of some 2,700 symbols for tests that need only any text."""
    return PLAY


@pytest.fixture
def small_gpt() -> GPT:
    """A GPT of 2 layers and 4 heads over 11 symbols, with weights large enough that its guesses differ."""
    model = GPT(GPTConfig(vocab_size=11, block_size=16, n_embd=32, n_head=4, n_layer=2, dropout=0.3))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="session")
def book_text() -> str:
    """Tiny Shakespeare where it can be had, else the stand-in."""
    return load_text()


@pytest.fixture(scope="session")
def book_ids(book_text):
    """The tokenizer of the book's text, and its ids cut in two."""
    tokenizer = CharTokenizer(book_text)
    return tokenizer, *split(tokenizer.encode(book_text))


@pytest.fixture
def clean_environment(monkeypatch):
    """No MINIGPT_* variable set."""
    for name in list(os.environ):
        if name.startswith("MINIGPT_"):
            monkeypatch.delenv(name)
