"""Record what trained models do, for the front page, the README's picture and the social preview.

    python book/tools/landing.py $(for name in bigram gpt-laptop modern-coffee; do
      echo $name=data/weights/$name.safetensors; done)

Writes `book/landing.json`, `book/_static/attention.svg` and `book/_static/social.png`. `gpt-laptop` is shown reading;
its line comes from the validation text, which it was not trained on.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import platform
from pathlib import Path
from typing import Any

import torch

from minigpt import CharTokenizer, evaluate, generate, load_model, load_text, split
from minigpt.run.checkpoint import load_facts, write_bytes
from minigpt.view.explorer import visible

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "book" / "_static"
LINE_BEGINS = "GREMIO:\nGood morrow"
SAMPLE = 240
NAMES = {
    "bigram": ("A table of pairs", "chapter 2"),
    "gpt-laptop": ("A small GPT", "chapter 7"),
    "gpt": ("The full GPT", "chapter 7"),
    "modern-coffee": ("The modern GPT", "chapter 10"),
}


def reading(model: Any, idx: torch.Tensor, tokenizer: CharTokenizer) -> tuple[dict[str, Any], torch.Tensor]:
    """Every head's weights on one line as bytes, and the five likeliest next symbols at each position."""
    model.eval()
    with torch.no_grad():
        weights = model.attention(idx)[:, 0]  # (n_layer, n_head, T, T)
        probabilities = model(idx)[0].softmax(-1)  # (T, vocab_size)
    length = idx.shape[1]
    rows, columns = torch.tril_indices(length, length)
    triangle = (weights[:, :, rows, columns] * 255).round().to(torch.uint8)
    best = probabilities.topk(5)
    expected = [
        [[tokenizer.decode([int(i)]), round(float(p), 3)] for p, i in zip(ps, ids, strict=True)]
        for ps, ids in zip(best.values, best.indices, strict=True)
    ]
    return {
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "length": length,
        "weights": base64.b64encode(triangle.numpy().tobytes()).decode(),
        "next": expected,
    }, weights


def sample(model: Any, tokenizer: CharTokenizer) -> str:
    """A continuation of a line break, the same on every call on one machine."""
    start = tokenizer.encode("\n")[None]
    idx = generate(model, start, SAMPLE, generator=torch.Generator().manual_seed(1))
    return tokenizer.decode(idx[0]).strip("\n")


def far_looking(weights: torch.Tensor) -> tuple[int, int]:
    """The head that looks most sharply at single symbols at least four back: the one whose picture says most."""
    length = weights.shape[-1]
    far = torch.ones(length, length).tril(-4)
    score = (weights * far).amax(-1).mean(-1)  # (n_layer, n_head)
    layer, head = divmod(int(score.argmax()), weights.shape[1])
    return layer, head


def shade(weight: float) -> str:
    return "#" + "".join(f"{round(255 + (end - 255) * weight**0.6):02x}" for end in (0x12, 0x3F, 0x8C))


def attention_svg(weights: torch.Tensor, line: str, alt: str) -> str:
    """A heat map of one head, (T, T), with the symbols on both axes, on a light ground of its own."""
    step, edge = 14, 26
    size = edge + step * len(line) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" role="img" font-size="11" '
        f'font-family="ui-monospace,DejaVu Sans Mono,monospace" text-anchor="middle"><title>{html.escape(alt)}</title>',
        f'<rect width="{size}" height="{size}" fill="#fff"/><g fill="#333">',
    ]
    for i, symbol in enumerate(line):
        at = edge + step * i + step / 2
        parts.append(f'<text x="{at}" y="{edge - 8}">{html.escape(visible(symbol))}</text>')
        parts.append(f'<text x="{edge - 12}" y="{at + 4}">{html.escape(visible(symbol))}</text>')
    parts.append("</g>")
    for t in range(len(line)):
        for s in range(t + 1):
            x, y = edge + step * s, edge + step * t
            fill = shade(float(weights[t, s]))
            parts.append(f'<rect x="{x}" y="{y}" width="{step - 1}" height="{step - 1}" fill="{fill}"/>')
    return "".join(parts) + "</svg>\n"


def social_png(weights: torch.Tensor, path: Path) -> None:
    """1200 by 630: the title beside the same head."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="#0f1b33")
    axes = figure.add_axes((0.53, 0.06, 0.46, 0.88))
    picture = torch.where(torch.ones_like(weights).tril().bool(), weights**0.6, torch.nan)
    axes.imshow(picture, cmap="Blues", vmin=0, vmax=1)
    axes.set_facecolor("#0f1b33")
    axes.set_axis_off()
    figure.text(0.06, 0.60, "From raw text\nto a full GPT", color="white", fontsize=44, weight="bold", linespacing=1.15)
    figure.text(0.06, 0.42, "A book that is also a program.", color="#b9cbee", fontsize=21)
    figure.text(0.06, 0.10, "minigpt", color="#b9cbee", fontsize=20)
    figure.savefig(path, facecolor=figure.get_facecolor(), metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--layer", type=int, help="of the head of the still pictures; else the farthest-looking")
    parser.add_argument("--head", type=int)
    options = parser.parse_args()

    text = load_text()
    tokenizer = CharTokenizer(text)
    _, val_ids = split(tokenizer.encode(text))
    samples: list[dict[str, str]] = []
    record: dict[str, str] = {}
    models: dict[str, Any] = {}
    for run in options.runs:
        name, _, file = run.partition("=")
        model = models[name] = load_model(file)
        loss = evaluate(model, val_ids)
        words, chapter = NAMES.get(name, (name, ""))
        count = sum(p.numel() for p in model.parameters())
        note = f"{chapter}, {count:,} parameters, validation loss {loss:.2f}"
        samples.append({"name": words, "note": note, "text": sample(model, tokenizer)})
        fact = f"{count:,} parameters, loss on the whole validation text {loss:.3f}"
        facts = load_facts(file)
        if facts:
            fact += f"; {facts['step']} steps in {facts['seconds']:.0f} s on {facts['machine']}"
        record[f"{words}, preset {name}"] = fact
        print(f"{name}: {note}")

    model = models["gpt-laptop"]
    begin = text.index(LINE_BEGINS, int(len(text) * 0.9))
    line = text[begin : begin + min(model.config.block_size, 64)]
    data, weights = reading(model, tokenizer.encode(line)[None], tokenizer)
    layer, head = far_looking(weights)
    layer = layer if options.layer is None else options.layer
    head = head if options.head is None else options.head
    data["start"] = {"layer": layer, "head": head, "position": line.rindex(" ") - 2}
    cut = line[:42]
    alt = f"Layer {layer}, head {head} of a trained model on {cut!r}: each row shades what that symbol reads."
    record["the line that is read"] = f"{len(line)} symbols of the validation text, beginning {cut.splitlines()[0]!r}"
    record["software"] = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, on the CPU"
    landing = {
        "line": line,
        "alt": "A line of a play",
        "caption": "A small GPT, trained as in chapter 7, reads a line it has never seen.",
        "shading": "Shaded: the symbols that one of its heads reads to predict what comes next. Move along the line, "
        "or change the head.",
        "reading": data,
        "samples": samples,
        "record": record,
    }
    write_bytes(ROOT / "book" / "landing.json", (json.dumps(landing, ensure_ascii=False, indent=1) + "\n").encode())
    write_bytes(STATIC / "attention.svg", attention_svg(weights[layer, head, :42, :42], cut, alt).encode())
    social_png(weights[layer, head], STATIC / "social.png")
    print(f"layer {layer}, head {head}; wrote book/landing.json, attention.svg and social.png")


if __name__ == "__main__":
    main()
