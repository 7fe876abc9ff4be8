// Runs jobs on an engine, a folder with minigpt.js and checkpoint.js, for tests/test_playground.py:
// reads { engine, jobs } as JSON from stdin, writes the results.
const fs = require("node:fs");

const { engine: source, jobs } = JSON.parse(fs.readFileSync(0, "utf8"));
const engine = require(`${source}/minigpt.js`), checkpoint = require(`${source}/checkpoint.js`);
const rows = (list) => list.map((row) => Array.from(row));

const files = new Map();

async function load(file) {
  if (!files.has(file)) {
    const bytes = fs.readFileSync(file);
    files.set(file, checkpoint.load_model(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), "it"));
  }
  return files.get(file);
}

async function run(job) {
  if (job.do === "probabilities") {
    return rows(job.cases.map(([logits, ...settings]) => engine.next_probabilities(Float32Array.from(logits), ...settings)));
  }
  if (job.do === "uniform") return Array.from({ length: job.n }, (_, at) => engine.uniform(job.seed, at));
  const { model, tokenizer, facts, name } = await load(job.file);
  if (job.do === "load") return { name, config: model.config, alphabet: tokenizer.symbols.join(""), facts };
  if (job.do === "encode") return tokenizer.encode(job.text);
  if (job.do === "stream") return [...engine.stream(model, job.ids, job.n, job.settings)];
  const reading = new engine.Reading(model, new Set(job.off || []));
  return job.texts.map((ids) => { // one after the other, the cache kept
    reading.after(ids);
    return { logits: rows(reading.logits), weights: reading.position.weights.map(rows) };
  });
}

async function main() {
  const results = [];
  for (const job of jobs) {
    try {
      results.push({ result: await run(job) });
    } catch (error) {
      results.push({ error: error.message, kind: error.constructor.name });
    }
  }
  console.log(JSON.stringify(results));
}
main();
