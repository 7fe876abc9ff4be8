"""minigpt: from raw text to a GPT, every piece small enough to read.

Each file is one idea and names the chapters that build it; this one only names what they offer.
"""

from minigpt.attention import Head, MultiHeadAttention, attention_weights
from minigpt.bigram import BigramLanguageModel, cross_entropy
from minigpt.block import Block, FeedForward
from minigpt.generation import KVCache, generate, next_probabilities, stream
from minigpt.gpt import GPT, GPTConfig
from minigpt.modern import ModernGPT
from minigpt.muon import Muon
from minigpt.run.checkpoint import load_model, load_tokenizer, save_model
from minigpt.text import CharTokenizer, get_batch, load_text, split
from minigpt.training import History, TrainConfig, estimate_loss, evaluate, train

__version__ = "0.1.0"

__all__ = [
    "GPT",
    "BigramLanguageModel",
    "Block",
    "CharTokenizer",
    "FeedForward",
    "GPTConfig",
    "Head",
    "History",
    "KVCache",
    "ModernGPT",
    "MultiHeadAttention",
    "Muon",
    "TrainConfig",
    "attention_weights",
    "cross_entropy",
    "estimate_loss",
    "evaluate",
    "generate",
    "get_batch",
    "load_model",
    "load_text",
    "load_tokenizer",
    "next_probabilities",
    "save_model",
    "split",
    "stream",
    "train",
]
