// The models of the book in plain JavaScript: no library, nothing fetched. Most pieces have the name they have in Python;
// the page `book/playground` shows the two side by side, and tests/test_playground.py holds them together.
// A classic script, so that it also runs from a folder (file://); in Node, `require` it.
const minigpt = (() => {
"use strict";

// ---- text.py --------------------------------------------------------------------------------------------------------

class CharTokenizer {
  constructor(symbols) {
    this.symbols = Array.from(symbols); // whole symbols, as Python counts them
    this.id_of = new Map(this.symbols.map((symbol, i) => [symbol, i]));
  }

  get vocab_size() {
    return this.symbols.length;
  }

  encode(text) {
    return Array.from(text, (symbol, at) => {
      if (this.id_of.has(symbol)) return this.id_of.get(symbol);
      throw new RangeError(`the symbol ${JSON.stringify(symbol)} at position ${at} is not in the vocabulary of ` +
        `${this.vocab_size} symbols: remove it, or choose a model that knows it`);
    });
  }

  decode(ids) {
    return ids.map((i) => this.symbols[i]).join("");
  }
}

// ---- the arithmetic that torch brings along; a vector is a Float32Array, a matrix one row after the other -----------

function row(matrix, i, length) {
  return matrix.subarray(i * length, (i + 1) * length);
}

function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

function multiply(x, y) {
  return x.map((value, i) => value * y[i]);
}

function relu(x) {
  return x.map((value) => Math.max(0, value));
}

function square(x) {
  return x.map((value) => value ** 2);
}

function linear(x, weight, bias) {
  const n = x.length, rows = weight.length / n, y = new Float32Array(rows);
  for (let r = 0; r < rows; r += 4) { // four rows at a time: x is read once for all four
    const at = (i) => Math.min(r + i, rows - 1) * n; // never past the last row: reading there halves the speed
    const w0 = at(0), w1 = at(1), w2 = at(2), w3 = at(3);
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (let i = 0; i < n; i++) {
      const value = x[i];
      s0 += weight[w0 + i] * value;
      s1 += weight[w1 + i] * value;
      s2 += weight[w2 + i] * value;
      s3 += weight[w3 + i] * value;
    }
    y[r] = s0; y[r + 1] = s1; y[r + 2] = s2; y[r + 3] = s3;
  }
  return bias ? add(y, bias) : y;
}

function layer_norm(x, weight, bias) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  return x.map((value, i) => (value - mean) * scale * weight[i] + bias[i]);
}

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// ---- bigram.py ------------------------------------------------------------------------------------------------------

class BigramLanguageModel {
  constructor(config, tensors) {
    Object.assign(this, { config, context: Infinity, table: tensors["table.weight"] });
  }

  position() {
    return { kv: { length: 0 }, weights: [], call: (symbol) => row(this.table, symbol, this.config.vocab_size) };
  }
}

// ---- gpt.py ---------------------------------------------------------------------------------------------------------

class GPT {
  constructor(config, tensors) {
    Object.assign(this, { config, context: config.block_size, tensors });
  }

  position(off) {
    return new OnePosition(this, new KVCache(this.config), off);
  }
}

// ---- generation.py: the cache, and one position ---------------------------------------------------------------------

class LayerCache {
  constructor(block_size, n_embd) {
    this.k = new Float32Array(block_size * n_embd); // (block_size, n_embd): the heads side by side
    this.v = new Float32Array(block_size * n_embd);
    this.length = 0;
  }

  append(k, v) {
    const start = this.length;
    this.length = start + 1;
    this.k.set(k, start * k.length);
    this.v.set(v, start * v.length);
    return [this.k.subarray(0, this.length * k.length), this.v.subarray(0, this.length * v.length)];
  }
}

class KVCache {
  constructor(config) {
    this.layers = Array.from({ length: config.n_layer }, () => new LayerCache(config.block_size, config.n_embd));
  }

  get length() {
    return this.layers[0].length;
  }

  set length(length) { // forget what came later: the keys and values of the past stay as they are
    for (const layer of this.layers) layer.length = length;
  }
}

class OnePosition {
  static parts = ["norm1", "attention.qkv", "attention.proj", "norm2", "feed_forward.net.0", "feed_forward.net.2"];

  constructor(model, kv, off = new Set()) {
    const tensors = model.tensors, part = (name) => [tensors[`${name}.weight`], tensors[`${name}.bias`]];
    Object.assign(this, { model, config: model.config, kv, off, weights: [] }); // off: heads that stay silent, as "layer.head"
    this.embeddings = [tensors["token_embedding.weight"], tensors["position_embedding.weight"]];
    this.layers = kv.layers.map((_, i) => new.target.parts.map((name) => part(`blocks.${i}.${name}`)));
    this.last = [part("norm"), part("head")];
  }

  call(symbol) {
    const C = this.config.n_embd, [tokens, positions] = this.embeddings;
    let x = add(row(tokens, symbol, C), row(positions, this.kv.length, C)); // (n_embd,)
    this.weights = this.layers.map(([norm1, qkv, proj, norm2, first, second], layer) => {
      const heads = linear(layer_norm(x, ...norm1), ...qkv);
      const q = row(heads, 0, C), k = row(heads, 1, C), v = row(heads, 2, C);
      const [mixed, weights] = this.attention(q, ...this.kv.layers[layer].append(k, v), layer);
      x = add(x, linear(mixed, ...proj));
      x = add(x, linear(relu(linear(layer_norm(x, ...norm2), ...first)), ...second));
      return weights;
    });
    const [norm, head] = this.last;
    return linear(layer_norm(x, ...norm), ...head);
  }

  attention(q, k, v, layer) { // nothing to mask: all is past
    const { n_embd, n_head } = this.config, head_size = n_embd / n_head, T = k.length / n_embd;
    const mixed = new Float32Array(n_embd), all = [];
    for (let head = 0; head < n_head; head++) {
      const start = head * head_size, scores = new Float32Array(T);
      for (let t = 0; t < T; t++) {
        let score = 0;
        for (let i = start; i < start + head_size; i++) score += q[i] * k[t * n_embd + i];
        scores[t] = score * head_size ** -0.5;
      }
      const weights = softmax(scores);
      all.push(weights);
      if (this.off.has(`${layer}.${head}`)) continue;
      for (let t = 0; t < T; t++) {
        for (let i = start; i < start + head_size; i++) mixed[i] += weights[t] * v[t * n_embd + i];
      }
    }
    return [mixed, all]; // (n_embd,), and for each head where it looks, (T,)
  }
}

// ---- modern.py ------------------------------------------------------------------------------------------------------

const BASE = 1024; // the slowest pair of a head turns this many times more slowly than the fastest

function rms_norm(x) {
  const mean = square(x).reduce((sum, value) => sum + value) / x.length;
  const scale = 1 / Math.sqrt(mean + 2 ** -23); // what torch adds: the last bit of a 1 in float32
  return x.map((value) => value * scale);
}

function rotate(x, start) { // one query or key, (head_size,), that stands at position `start`
  const half = x.length / 2, y = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    const angle = start * BASE ** -(i / Math.max(1, half - 1));
    const cos = Math.cos(angle), sin = Math.sin(angle);
    const first = x[i], second = x[half + i];
    y[i] = first * cos - second * sin;
    y[half + i] = first * sin + second * cos;
  }
  return y;
}

class ModernPosition extends OnePosition {
  static parts = ["attention.query", "attention.key", "attention.value",
    "attention.proj", "feed_forward.up", "feed_forward.down"];

  symbols = []; // what stands at each position in the cache
  smear = this.model.tensors.smear;

  embed(symbol) { // -> (n_embd,)
    const C = this.config.n_embd, [tokens] = this.embeddings, start = this.kv.length;
    this.symbols[start] = symbol;
    const x = row(tokens, symbol, C);
    return start ? add(x, multiply(this.smear, row(tokens, this.symbols[start - 1], C))) : x;
  }

  project(x, query, key, value, start) {
    const { n_embd, n_head } = this.config, head_size = n_embd / n_head;
    const q = linear(x, ...query), k = linear(x, ...key), v = linear(x, ...value);
    for (let head = 0; head < n_head; head++) {
      for (const one of [row(q, head, head_size), row(k, head, head_size)]) {
        one.set(rotate(rms_norm(one), start)); // in its place in q or k
      }
    }
    return [q, k, v]; // each (n_embd,): the heads side by side
  }

  call(symbol) {
    let x = this.embed(symbol);
    this.weights = this.layers.map(([query, key, value, proj, up, down], layer) => {
      const cache = this.kv.layers[layer];
      const [q, k, v] = this.project(rms_norm(x), query, key, value, cache.length);
      const [mixed, weights] = this.attention(q, ...cache.append(k, v), layer);
      x = add(x, linear(mixed, ...proj));
      x = add(x, linear(square(relu(linear(rms_norm(x), ...up))), ...down));
      return weights;
    });
    return linear(rms_norm(x), ...this.last[1]);
  }
}

class ModernGPT extends GPT {
  position(off) {
    return new ModernPosition(this, new KVCache(this.config), off);
  }
}

// ---- generation.py: reading and writing -----------------------------------------------------------------------------

// What a model has read, and its logits at every position of it. Only what is new is computed: text that goes on costs
// one position a symbol, and after a step back the cache is cut. Past the context every position shifts, so that
// nothing in the cache fits any more and the whole window is read again, as in Python.
class Reading {
  constructor(model, off) {
    Object.assign(this, { model, position: model.position(off), ids: [], logits: [] });
  }

  *read(ids) { // one position for each step of the iterator
    const window = ids.slice(-this.model.context);
    let known = 0;
    while (known < window.length - 1 && this.ids[known] === window[known]) known++;
    this.position.kv.length = this.ids.length = this.logits.length = known;
    for (const symbol of window.slice(known)) {
      const logits = this.position.call(symbol);
      if (!logits.every(Number.isFinite)) {
        throw new Error("the model's logits are not finite: its weights are damaged or its training diverged");
      }
      this.ids.push(symbol);
      this.logits.push(logits);
      yield logits;
    }
  }

  after(ids) { // the logits of the symbol that follows ids
    for (const _ of this.read(ids));
    return this.logits.at(-1);
  }
}

function next_probabilities(logits, temperature = 1, top_k = null, top_p = null) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b); // best first
  if (temperature === 0) return logits.map((_, i) => (i === order[0] ? 1 : 0));
  logits = logits.map((logit) => (logit - logits[order[0]]) / temperature);
  if (top_k !== null) for (const i of order.slice(top_k)) logits[i] = -Infinity;
  let probabilities = softmax(logits);
  if (top_p !== null && top_p < 1) {
    let before = 0; // what the more probable symbols already hold
    for (const i of order) {
      const p = probabilities[i];
      if (before >= top_p) probabilities[i] = 0;
      before += p;
    }
    const sum = probabilities.reduce((a, b) => a + b);
    probabilities = probabilities.map((p) => p / sum);
  }
  return probabilities;
}

function uniform(seed, at) { // a number in [0, 1) for each seed and place: hashed, so that it needs no past
  let x = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(at + 1, 0x85ebca6b);
  for (const factor of [0x7feb352d, 0x846ca68b]) x = Math.imul(x ^ (x >>> 16), factor);
  return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32;
}

function draw(probabilities, at) { // the symbol at which the running sum passes `at`
  let last = 0, sum = 0;
  for (let i = 0; i < probabilities.length; i++) {
    if (probabilities[i] > 0) last = i;
    if ((sum += probabilities[i]) > at) return last;
  }
  return last;
}

function* stream(model, idx, n, { temperature = 1, top_k = null, top_p = null, seed = 0, off } = {}) {
  if (!idx.length) throw new Error("the prompt is empty: give the model at least one symbol to continue");
  const reading = new Reading(model, off), ids = Array.from(idx);
  for (let i = 0; i < n; i++) {
    const probabilities = next_probabilities(reading.after(ids), temperature, top_k, top_p);
    ids.push(draw(probabilities, uniform(seed, ids.length)));
    yield ids.at(-1);
  }
}

return { CharTokenizer, BigramLanguageModel, GPT, ModernGPT, Reading, next_probabilities, uniform, draw, stream };
})();
if (typeof module === "object") module.exports = minigpt;
