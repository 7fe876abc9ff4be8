// Models on disk, as in minigpt/run/checkpoint.py: a safetensors file is a number, so many bytes of JSON, and weights.
// The JSON holds the class of the model, its config, its alphabet and a checksum of the whole file. Whatever is wrong
// with a file is said in a sentence, a CheckpointError. A classic script, like minigpt.js, which comes before it.
const checkpoint = ((minigpt) => {
"use strict";

// For each class the shape of every tensor that its config asks for.
const SHAPES = {
  BigramLanguageModel: ({ vocab_size }) => ({ "table.weight": [vocab_size, vocab_size] }),
  GPT: (config) => ({
    "token_embedding.weight": [config.vocab_size, config.n_embd],
    "position_embedding.weight": [config.block_size, config.n_embd],
    ...every_block(config, ({ n_embd }) => ({
      "norm1.weight": [n_embd],
      "norm1.bias": [n_embd],
      "attention.qkv.weight": [3 * n_embd, n_embd],
      "attention.proj.weight": [n_embd, n_embd],
      "attention.proj.bias": [n_embd],
      "norm2.weight": [n_embd],
      "norm2.bias": [n_embd],
      "feed_forward.net.0.weight": [4 * n_embd, n_embd],
      "feed_forward.net.0.bias": [4 * n_embd],
      "feed_forward.net.2.weight": [n_embd, 4 * n_embd],
      "feed_forward.net.2.bias": [n_embd],
    })),
    "norm.weight": [config.n_embd],
    "norm.bias": [config.n_embd],
    "head.weight": [config.vocab_size, config.n_embd],
    "head.bias": [config.vocab_size],
  }),
  ModernGPT: (config) => ({
    "token_embedding.weight": [config.vocab_size, config.n_embd],
    smear: [config.n_embd],
    ...every_block(config, ({ n_embd, n_head }) => {
      const head_size = n_embd / n_head;
      if (head_size % 2) throw new Error(`n_embd / n_head is ${head_size}: rotary positions need an even size`);
      return {
        "attention.query.weight": [n_embd, n_embd],
        "attention.key.weight": [n_embd, n_embd],
        "attention.value.weight": [n_embd, n_embd],
        "attention.proj.weight": [n_embd, n_embd],
        "feed_forward.up.weight": [4 * n_embd, n_embd],
        "feed_forward.down.weight": [n_embd, 4 * n_embd],
      };
    }),
    "head.weight": [config.vocab_size, config.n_embd],
  }),
};
const TRANSFORMER = ["block_size", "dropout", "n_embd", "n_head", "n_layer", "vocab_size"];
const FIELDS = { BigramLanguageModel: ["block_size", "vocab_size"], GPT: TRANSFORMER, ModernGPT: TRANSFORMER };
const MOST_NUMBERS = 2 ** 28; // in a cache: a gigabyte
const BYTES = { F16: 2, F32: 4 };

function every_block(config, shapes) {
  const { n_embd, n_head, n_layer } = config;
  if (n_embd % n_head !== 0) throw new Error(`n_embd is ${n_embd}: it must be divisible by n_head, which is ${n_head}`);
  const block = Object.entries(shapes(config));
  const named = (_, i) => block.map(([name, shape]) => [`blocks.${i}.${name}`, shape]);
  return Object.fromEntries(Array.from({ length: n_layer }, named).flat());
}

class CheckpointError extends Error {}

function refuse(sentence) {
  throw new CheckpointError(sentence);
}

async function load_model(buffer, file = "the file") { // an ArrayBuffer -> { model, tokenizer, facts, name }
  const { tensors, metadata } = await read_tensors(buffer, file), name = metadata.model;
  if (!Object.hasOwn(SHAPES, name)) {
    refuse(`${file} holds a ${name}, and this page runs only ${Object.keys(SHAPES).join(", ")}`);
  }
  let config, facts;
  try {
    config = JSON.parse(metadata.config);
    facts = JSON.parse(metadata.facts || "{}");
    if (facts === null || typeof facts !== "object") throw new Error("its facts are no object");
    const missing = FIELDS[name].find((field) => !Object.hasOwn(config, field));
    if (missing) throw new Error(`${missing} is not there`);
    for (const [key, value] of Object.entries(config)) {
      if (!FIELDS[name].includes(key)) throw new Error(`${key} is no part of a ${name}`);
      if (key !== "dropout" && !(Number.isInteger(value) && value >= 1)) throw new Error(`${key} is ${value}`);
    }
    if (config.n_layer > Object.keys(tensors).length) {
      throw new Error(`n_layer is ${config.n_layer}, more than it has weights for`);
    }
    if (config.block_size * (config.n_embd ?? 0) * 2 * (config.n_layer ?? 0) > MOST_NUMBERS) {
      throw new Error(`block_size is ${config.block_size}, more than this page can hold`);
    }
    const shapes = SHAPES[name](config), shape = (of) => (of ? of.join(" × ") : "not there");
    for (const key of new Set([...Object.keys(shapes), ...Object.keys(tensors)])) {
      const [is, ought] = [shape(tensors[key]?.shape), shape(shapes[key])];
      if (is !== ought) throw new Error(`${key} is ${is} and should be ${ought}`);
    }
  } catch (error) {
    refuse(`${file} does not fit its own config (${error.message}): train the model again`);
  }
  if (!metadata.alphabet) refuse(`${file} was saved without an alphabet: give save_model the tokenizer`);
  const tokenizer = new minigpt.CharTokenizer(metadata.alphabet), known = tokenizer.id_of.size;
  if (known !== config.vocab_size || known !== tokenizer.vocab_size) {
    refuse(`${file} has an alphabet of ${known} symbols and a vocab_size of ${config.vocab_size}: ` +
      "save it again with its own tokenizer");
  }
  return { model: new minigpt[name](config, tensors), tokenizer, facts, name, sum: metadata.sha256 };
}

async function read_tensors(buffer, file) {
  const { header, start } = read_header(new Uint8Array(buffer), file), tensors = {};
  const { __metadata__: metadata, ...entries } = header;
  if (metadata?.format !== "minigpt") {
    refuse(`${file} is a safetensors file, but not one of minigpt's: choose one that it wrote`);
  }
  if (metadata.version !== "1") refuse(`${file} has format version ${metadata.version}: this page reads 1`);
  if (metadata.run) refuse(`${file} is a run to go on with, not a model: choose model.safetensors beside it`);
  if (!(await is_whole(new Uint8Array(buffer), start, String(metadata.sha256)))) {
    refuse(`${file} is damaged (its checksum does not match): copy or train it again`);
  }
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    if (!Object.hasOwn(BYTES, dtype)) refuse(`${file} holds ${name} as ${dtype}: this page reads F32 and F16`);
    if (shape.reduce((a, b) => a * b, 1) * BYTES[dtype] !== to - from) {
      refuse(`${file} is damaged (${name} has the wrong number of bytes): copy or train it again`);
    }
    const data = buffer.slice(start + from, start + to);
    tensors[name] = Object.assign(dtype === "F16" ? float16(new Uint16Array(data)) : new Float32Array(data), { shape });
  }
  return { tensors, metadata };
}

function read_header(bytes, file) {
  const foreign = `${file} is not a safetensors file, or its start is damaged: choose a file minigpt wrote`;
  if (!bytes.length) refuse(`${file} is empty: it was not written to its end; train or copy it again`);
  if (bytes.length < 10 || bytes[8] !== 0x7b) refuse(foreign); // 0x7b is {
  const start = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
  if (start > 100_000_000) refuse(foreign);
  const truncated = (missing) => `${file} is truncated: ${missing} bytes are missing; copy it again, or train again`;
  if (start > bytes.length) refuse(truncated("some"));
  let header, end = start;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, start)));
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const numbers = [...entry.data_offsets, ...entry.shape];
      const whole = numbers.every((n) => Number.isInteger(n) && n >= 0);
      if (!whole || entry.data_offsets.length !== 2) throw new Error(name);
      end = Math.max(end, start + numbers[1]);
    }
  } catch {
    refuse(foreign);
  }
  if (end > bytes.length) refuse(truncated((end - bytes.length).toLocaleString("en")));
  return { header, start };
}

async function is_whole(bytes, start, digest) { // the sum is that of the file with zeros where the sum stands
  if (!globalThis.crypto?.subtle) return true; // browsers keep it from pages over plain http
  const at = new TextDecoder("latin1").decode(bytes.subarray(0, start)).indexOf(digest), copy = bytes.slice();
  if (at < 0 || digest.length !== 64) return false;
  copy.fill(0x30, at, at + 64); // 0x30 is 0
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", copy));
  return Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("") === digest;
}

function float16(halves) { // the bits moved to where a 32-bit number has them; the exponent is then 112 too small
  const bits = new Uint32Array(halves.length), numbers = new Float32Array(bits.buffer);
  for (let i = 0; i < halves.length; i++) {
    bits[i] = ((halves[i] & 0x8000) << 16) | ((halves[i] & 0x7fff) << 13);
    numbers[i] = (halves[i] & 0x7c00) === 0x7c00 ? NaN : numbers[i] * 2 ** 112;
  }
  return numbers;
}

return { load_model, CheckpointError };
})(typeof module === "object" ? require("./minigpt.js") : minigpt);
if (typeof module === "object") module.exports = checkpoint;
