// The playground: one or two models continue the same prompt. minigpt.js computes, checkpoint.js reads
// files, this file draws. No dependency.
(() => {
"use strict";

const root = document.querySelector(".pg[data-models]");
const DEFAULT = { prompt: "JULIET:\nO Romeo, ", text: "", model: "gpt-laptop", with: "", t: 0.8, k: 0, p: 1, seed: 1, off: "", off2: "" };
const STEPS = 240; // symbols for one press of Generate
const BARS = 10;
const LONGEST = 5000; // symbols of a prompt: each is drawn, and all of it stands in the address
const MARK = "The mark is the model’s own probability: temperature 1, nothing cut, every head on.";
const state = { ...DEFAULT };
const models = new Map(); // key -> { key, label, model, tokenizer, facts }
let notice = "", mend = null, columns = [], colour = "surprise", running = null, saving = null;

// ---- small helpers -------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const { sign, named, shade } = self.symbols;
const percent = (p) => (p === 0 ? "–" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const visible = (symbol) => (sign(symbol) === symbol && /[\p{C}\p{Z}]/u.test(symbol) // a no-break space, for one, is pasted unseen
  ? `U+${symbol.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` : `“${sign(symbol)}”`);
const count = (n) => n.toLocaleString("en");
const channel = new MessageChannel();
let waiting = [];
channel.port1.onmessage = () => { const all = waiting; waiting = []; for (const go of all) go(); };
const breathe = () => new Promise((go) => { waiting.push(go); channel.port2.postMessage(0); }); // let the page react

// ---- one model and its text ----------------------------------------------------------------------------------------

class Column {
  constructor(name) {
    Object.assign(this, { name, entry: null, off: new Set(), ids: [], written: 0, surprise: [], selected: null, head: null });
    Object.assign(this, { job: 0, shown: 0, edge: 0, seeking: null, logits: null, weights: [], own: null });
    this.title = make("h2", { class: "pg-title" });
    this.about = make("p", { class: "pg-about" });
    this.line = make("div", { class: "pg-text", role: "listbox", tabindex: "0" });
    this.legend = make("p", { class: "pg-legend" });
    this.next = make("p", { class: "pg-label" });
    this.bars = Array.from({ length: BARS }, () => this.bar());
    this.rest = make("p", { class: "pg-rest" });
    this.heads = make("div", { class: "pg-heads" });
    this.element = make("section", { class: "pg-column" }, this.title, this.about, this.line, this.legend,
      make("div", { class: "pg-below" },
        make("div", { class: "pg-next" }, this.next, make("div", { class: "pg-bars" }, ...this.bars.map((bar) => bar.button)), this.rest),
        this.heads));
    this.line.addEventListener("click", (event) => {
      const index = [...this.line.children].indexOf(event.target.closest("[role=option]"));
      if (index >= 0) this.select(index === this.selected ? null : index);
    });
    this.line.addEventListener("keydown", (event) => this.key(event));
  }

  bar() {
    const bar = { symbol: make("code"), fill: make("i"), mark: make("b"), share: make("span", { class: "pg-share" }), id: null };
    bar.button = make("button", { type: "button", class: "pg-bar", onclick: () => this.force(bar.id) },
      bar.symbol, make("span", { class: "pg-track", "aria-hidden": "true" }, bar.fill, bar.mark), bar.share);
    return bar;
  }

  use(entry) {
    if (this.entry === entry) return;
    this.entry = entry;
    Object.assign(this, { off: new Set(), head: null, ids: [], logits: null, weights: [], own: null });
    this.title.textContent = entry.label;
    const parameters = Object.values(entry.model.tensors || { table: entry.model.table }).reduce((sum, part) => sum + part.length, 0);
    const { step, val_loss, preset } = entry.facts;
    const facts = [entry.name, `${count(parameters)} parameters`];
    if (entry.key.startsWith("own:") && preset) facts.push(`preset ${preset}`);
    if (Number.isFinite(step)) facts.push(`${count(step)} steps`);
    if (Number.isFinite(val_loss)) facts.push(`validation loss ${val_loss.toFixed(2)}`);
    if (Number.isFinite(entry.model.context)) facts.push(`sees ${entry.model.context} symbols`);
    this.about.textContent = facts.join(" · ");
    this.line.setAttribute("aria-label", `Text of ${entry.label}, one symbol after the other. Arrow keys choose a symbol.`);
    this.buildHeads();
    this.forget();
  }

  forget() { // a reader for the text, one for looking at any place of it, and one with every head on
    this.job++; // what is still being read belongs to what was
    this.reading = new minigpt.Reading(this.entry.model, this.off);
    this.looking = new minigpt.Reading(this.entry.model, this.off);
    this.intact = this.off.size ? new minigpt.Reading(this.entry.model) : null;
    this.surprise = [];
  }

  set(prompt, text) {
    this.ids = this.entry.tokenizer.encode(prompt + text);
    this.written = this.entry.tokenizer.encode(prompt).length;
    this.surprise = [];
    this.selected = null;
  }

  async finish(reading, ids) { // read to the end in slices of a few milliseconds; false if something newer has begun
    const job = this.job, iterator = (reading.now = reading.read(ids));
    for (let until = performance.now() + 10, step = iterator.next(); !step.done; step = iterator.next()) {
      if (performance.now() < until) continue;
      await breathe();
      if (job !== this.job || reading.now !== iterator) return false;
      until = performance.now() + 10;
    }
    return true;
  }

  async update() { // read the text, then look at the chosen place; false if something newer has begun
    this.job++;
    if (!this.ids.length) return false;
    if (!(await this.finish(this.reading, this.ids))) return false;
    this.measure();
    return this.look();
  }

  measure() { // the surprise at each symbol that was read and is not measured yet, in bits
    const first = this.ids.length - this.reading.ids.length;
    for (let t = 1; t < this.reading.ids.length; t++) {
      this.surprise[first + t] ??= -Math.log2(minigpt.next_probabilities(this.reading.logits[t - 1])[this.ids[first + t]]);
    }
  }

  async look() {
    const ids = (this.seeking = this.ids.slice(0, this.place() + 1));
    if (!(await this.finish(this.looking, ids))) return false;
    if (this.intact && !(await this.finish(this.intact, ids))) return false;
    if (this.seeking !== ids) return false; // another place was chosen while the intact model read
    this.logits = this.looking.logits.at(-1);
    this.weights = this.looking.position.weights;
    this.own = minigpt.next_probabilities(this.intact ? this.intact.logits.at(-1) : this.logits);
    this.draw();
    return true;
  }

  place() {
    return this.selected ?? this.ids.length - 1;
  }

  async write() { // one symbol
    if (!(await this.finish(this.reading, this.ids))) return;
    this.measure();
    const probabilities = minigpt.next_probabilities(this.reading.logits.at(-1), state.t, state.k || null, state.p);
    this.ids.push(minigpt.draw(probabilities, minigpt.uniform(state.seed, this.ids.length)));
  }

  force(id) { // go on with this symbol after the chosen place
    if (!this.logits) return; // the bars are still those of another model
    flush();
    stop();
    const inside = this.place() + 1 < this.written; // the prompt: what is left of it is the new one
    this.ids = [...this.ids.slice(0, this.place() + 1), id];
    this.written = Math.min(this.written, this.ids.length - 1);
    this.surprise.length = Math.min(this.surprise.length, this.ids.length - 1);
    this.selected = null;
    if (inside && this === columns[0]) state.prompt = prompt.value = this.entry.tokenizer.decode(this.ids.slice(0, -1));
    this.update().then((seen) => {
      if (seen) say(`${named(this.symbol(this.ids.length - 1))} written. ${this.expectation()}`);
    }).catch(fault);
    save(true);
  }

  select(index) {
    this.selected = index;
    colour = index === null ? "surprise" : "attention";
    drawColour();
    this.look().then((seen) => {
      if (seen && index !== null) say(`${this.describe(index)}. ${this.expectation()}`);
    }).catch(fault);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // Alt and an arrow is the browser's own
    const last = this.ids.length - 1, at = this.place();
    const lineStart = (from) => { while (from > 0 && this.symbol(from - 1) !== "\n") from--; return from; };
    const moves = {
      ArrowRight: () => Math.min(last, this.selected === null ? at : at + 1), ArrowLeft: () => Math.max(0, this.selected === null ? at : at - 1),
      Home: () => 0, End: () => last,
      ArrowUp: () => Math.max(0, lineStart(at) - 1),
      ArrowDown: () => { let to = at; while (to < last && this.symbol(to) !== "\n") to++; return Math.min(last, to + 1); },
    };
    if (event.key === "Escape") this.select(null);
    else if (moves[event.key]) this.select(moves[event.key]());
    else return;
    event.preventDefault();
    this.line.children[this.place()]?.scrollIntoView({ block: "nearest" });
  }

  symbol(index) {
    return this.entry.tokenizer.symbols[this.ids[index]];
  }

  describe(index) {
    const bits = this.surprise[index];
    return named(this.symbol(index)) + (bits === undefined ? "" : `, surprise ${bits.toFixed(1)} bits`);
  }

  expectation() {
    const best = this.bars.filter(({ button }) => !button.hidden).slice(0, 3).map(({ id }) => `${named(this.entry.tokenizer.symbols[id])} ${percent(this.adjusted[id])}`);
    return `Next: ${best.join(", ")}`;
  }

  // ---- drawing

  draw() {
    if (!root.dataset.first) {
      root.dataset.first = performance.now().toFixed(0); // milliseconds from opening the page to the first bars
      setTimeout(sendForTheRest);
    }
    this.drawBars();
    this.drawHeads();
    this.drawText();
  }

  drawBars() { // follows the sliders: only the softmax is taken again
    if (!this.logits) return;
    const { symbols } = this.entry.tokenizer;
    this.adjusted = minigpt.next_probabilities(this.logits, state.t, state.k || null, state.p);
    const order = [...this.adjusted.keys()].sort((a, b) => this.logits[b] - this.logits[a] || a - b);
    const widest = Math.max(this.adjusted[order[0]], ...this.own);
    const scale = (p) => `${(100 * p / widest).toFixed(2)}%`;
    this.next.textContent = this.selected === null ? "What comes next" : `What it expected after “${sign(this.symbol(this.selected))}”`;
    this.bars.forEach((bar, i) => {
      bar.button.hidden = i >= order.length;
      if (i >= order.length) return;
      const id = (bar.id = order[i]), p = this.adjusted[id];
      bar.symbol.textContent = sign(symbols[id]);
      bar.fill.style.width = scale(p);
      bar.mark.style.left = scale(this.own[id]);
      bar.share.textContent = percent(p);
      bar.button.classList.toggle("cut", p === 0);
      bar.button.setAttribute("aria-label", `Write ${named(symbols[id])}, ${p ? percent(p) : "cut off"}`);
    });
    const others = order.slice(BARS), sum = others.reduce((total, id) => total + this.adjusted[id], 0);
    this.rest.textContent = `${others.length ? `${others.length} others: ${percent(sum)}. ` : ""}${MARK}`;
  }

  drawText() {
    const { symbols } = this.entry.tokenizer, spans = this.line.children;
    while (spans.length > this.ids.length) this.line.lastChild.remove();
    while (spans.length < this.ids.length) this.line.append(make("span", { role: "option" }));
    const weights = colour === "attention" && this.weights.length ? this.row() : null;
    this.ids.forEach((_, i) => this.paint(spans[i], i, symbols, weights));
    if (this.selected === null) this.line.removeAttribute("aria-activedescendant");
    this.shown = this.ids.length;
    this.drawLegend();
  }

  grow() { // during generation: only what is new, and what has just left the context
    const { symbols } = this.entry.tokenizer, line = this.line, spans = line.children, from = this.shown;
    const atTheEnd = line.scrollHeight - line.scrollTop - line.clientHeight < 40;
    while (spans.length < this.ids.length) this.line.append(make("span", { role: "option" }));
    const edge = Math.max(0, this.ids.length - this.entry.model.context);
    for (let i = this.edge; i < edge; i++) this.paint(spans[i], i, symbols);
    for (let i = Math.max(0, from - 1); i < this.ids.length; i++) this.paint(spans[i], i, symbols);
    if (atTheEnd) line.scrollTop = line.scrollHeight;
    this.shown = this.ids.length;
    this.drawLegend();
  }

  paint(span, i, symbols, weights) {
    const symbol = symbols[this.ids[i]], at = this.place(), first = Math.max(0, at + 1 - this.entry.model.context);
    const shown = symbol === " " ? " " : sign(symbol);
    if (span.textContent !== shown) span.textContent = shown;
    span.className = "";
    span.toggleAttribute("data-end", symbol === "\n");
    if (i < this.written) span.classList.add("prompt");
    if (i < first || i > at) span.classList.add("away");
    const bits = this.surprise[i];
    span.setAttribute("aria-label", this.describe(i));
    span.setAttribute("aria-selected", String(i === this.selected));
    span.title = bits === undefined ? named(symbol) : `${named(symbol)}: ${bits.toFixed(1)} bits`;
    if (i === this.selected) {
      span.id = `pg-${this.name}-here`;
      span.classList.add("here");
      this.line.setAttribute("aria-activedescendant", span.id);
    } else span.removeAttribute("id");
    const attention = colour === "attention";
    const weight = !attention || i < first || i > at ? 0 : weights ? weights[i - first] : Number(i === at);
    shade(span, attention ? weight ** 0.6 : Math.min(1, (bits ?? 0) / 8) * 0.5);
    span.classList.toggle("bits", !attention);
  }

  row(head = this.head) { // the weights that are shown: of the chosen head, or the mean over the heads that are on
    if (head) return this.weights[head[0]][head[1]];
    const all = this.weights.flatMap((heads, layer) => heads.filter((_, head) => !this.off.has(`${layer}.${head}`)));
    const rows = all.length ? all : this.weights.flat();
    return rows[0].map((_, t) => rows.reduce((sum, row) => sum + row[t], 0) / rows.length);
  }

  drawLegend() {
    this.edge = Math.max(0, this.ids.length - this.entry.model.context);
    const measured = this.surprise.slice(this.written).filter((bits) => bits !== undefined);
    const parts = [];
    if (colour === "attention" && this.weights.length) {
      const which = this.head ? `layer ${this.head[0]}, head ${this.head[1]}` : "the heads, on average,";
      parts.push(`Shaded: what ${which} read at “${sign(this.symbol(this.place()))}”.`);
    } else if (colour === "attention") parts.push("Shaded: the one symbol that this model looks at.");
    else parts.push("Shaded: how surprising each symbol was.");
    if (measured.length) parts.push(`On average ${(measured.reduce((a, b) => a + b) / measured.length).toFixed(2)} bits in what follows the prompt.`);
    if (this.edge || this.selected !== null) parts.push("Grey: out of its sight.");
    this.legend.textContent = parts.join(" ");
  }

  buildHeads() {
    const { n_layer = 0, n_head = 0 } = this.entry.model.config;
    this.strips = [];
    if (!n_layer) {
      this.heads.replaceChildren(make("p", { class: "pg-label" }, "What each head looked at"),
        make("p", { class: "pg-rest" }, "There are no heads: a bigram model looks at the last symbol and at nothing else."));
      return;
    }
    const body = make("tbody");
    const strip = (name, layer, head) => {
      const canvas = make("canvas", { height: "1" }), most = make("td", { class: "pg-most" });
      const button = make("button", { type: "button", class: "pg-strip", "aria-pressed": "false", onclick: () => this.choose(layer, head) }, canvas);
      const box = layer === null ? "" : make("input", { type: "checkbox", checked: true, "aria-label": `Layer ${layer}, head ${head} is on`,
        onchange: (event) => this.toggle(`${layer}.${head}`, event.target.checked) });
      const row = make("tr", {}, make("th", { scope: "row" }, layer === null ? name : make("label", {}, box, name)), make("td", {}, button), most);
      this.strips.push({ canvas, most, button, box, row, layer, head, name });
      return row;
    };
    body.append(strip("mean", null, null));
    for (let layer = 0; layer < n_layer; layer++) {
      for (let head = 0; head < n_head; head++) {
        const row = strip(`${layer}.${head}`, layer, head);
        if (head === 0) row.className = "pg-layer";
        body.append(row);
      }
    }
    const all = make("button", { type: "button", class: "pg-small", onclick: () => this.toggleAll() }, "All heads on");
    this.heads.replaceChildren(make("p", { class: "pg-label" }, "What each head looked at ", all),
      make("div", { class: "pg-scroll" },
        make("table", {}, make("caption", { class: "pg-hidden" }, "Heads, named layer.head: switched on or off, where they look"), body)));
  }

  choose(layer, head) {
    stop();
    this.head = layer === null ? null : [layer, head];
    colour = "attention";
    drawColour();
  }

  toggle(head, on) {
    stop();
    if (on) this.off.delete(head);
    else this.off.add(head);
    this.forget();
    const before = this.logits && this.adjusted; // nothing of this model is drawn before its first reading ends
    this.update().then((seen) => {
      if (!seen || !before) return;
      const change = this.adjusted.reduce((sum, p, i) => sum + Math.abs(p - before[i]), 0) / 2;
      say(`Head ${head} ${on ? "on" : "off"}: ${change ? percent(change) : "nothing"} of the probability moved. ${this.expectation()}`);
    }).catch(fault);
    save();
  }

  toggleAll() {
    stop();
    this.off.clear();
    this.forget();
    this.update().catch(fault);
    save();
  }

  drawHeads() {
    if (!this.strips.length || !this.weights.length) return;
    const [r, g, b] = getComputedStyle(root).getPropertyValue("--heat").trim().split(/\s+/).map(Number);
    const at = this.place(), first = Math.max(0, at + 1 - this.entry.model.context), chosen = this.head;
    for (const { canvas, most, button, box, row, layer, head, name } of this.strips) {
      const isOff = layer !== null && this.off.has(`${layer}.${head}`);
      const isChosen = layer === null ? !chosen : chosen?.[0] === layer && chosen[1] === head;
      const weights = this.row(layer === null ? null : [layer, head]);
      if (box) box.checked = !isOff;
      row.classList.toggle("off", isOff);
      button.setAttribute("aria-pressed", String(isChosen && colour === "attention"));
      const span = Math.max(weights.length, Math.min(this.entry.model.context, 16));
      if (canvas.width !== span) canvas.width = span;
      const pixels = new ImageData(span, 1);
      weights.forEach((weight, t) => pixels.data.set([r, g, b, Math.round(255 * weight ** 0.5)], 4 * t));
      canvas.getContext("2d").putImageData(pixels, 0, 0);
      const best = weights.reduce((top, weight, t) => (weight > weights[top] ? t : top), 0), back = at - first - best;
      const where = back === 0 ? "itself" : `${back} back`;
      most.replaceChildren(make("code", {}, sign(this.symbol(first + best))), ` ${where}, ${Math.round(100 * weights[best])} %`);
      const who = layer === null ? "All heads, mean" : `Layer ${layer}, head ${head}`;
      const most_read = `${named(this.symbol(first + best))}, ${where}, ${Math.round(100 * weights[best])} %`;
      button.setAttribute("aria-label", `${who}: mostly ${most_read}. Shade the text with it`);
      button.title = `${name}: shade the text with it`;
    }
  }
}

// ---- controls ------------------------------------------------------------------------------------------------------

const live = make("p", { class: "pg-hidden", role: "status", "aria-live": "polite" });
const message = make("div", { class: "pg-message", role: "alert" });
const status = make("span", { class: "pg-status" });
const prompt = make("textarea", { id: "pg-prompt", rows: "2", spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
const generate = make("button", { type: "button", class: "pg-main", onclick: () => (running ? stop() : start(STEPS)) }, "Generate");
const one = make("button", { type: "button", onclick: () => { stop(); start(1); } }, "One symbol");
const again = make("button", { type: "button", onclick: () => { flush(); stop(); state.text = ""; restart(""); save(true); } }, "Restart");
const choose = make("select", { id: "pg-model", onchange: () => change({ model: choose.value, off: "" }) });
const against = make("select", { id: "pg-with", onchange: () => change({ with: against.value, off2: "" }) });
const file = make("input", { type: "file", accept: ".safetensors", class: "pg-hidden", tabindex: "-1",
  "aria-label": "A .safetensors file",
  onchange: () => { if (file.files.length) open(file.files[0]); file.value = ""; } });
const grid = make("div", { class: "pg-columns" });
const sliders = {
  t: slider("Temperature", 0, 2, 0.05, (value) => (value === 0 ? "0, always the best" : value.toFixed(2)), (value) => { state.t = value; }),
  k: slider("Top-k", 1, 65, 1, (value, most) => (value >= most ? "all" : `the best ${value}`), (value, most) => { state.k = value >= most ? 0 : value; }),
  p: slider("Top-p", 0.05, 1, 0.05, (value) => (value >= 1 ? "all" : value.toFixed(2)), (value) => { state.p = value; }),
};
const seed = make("input", { type: "number", id: "pg-seed", min: "0", max: "999999", step: "1", oninput: () => {
  state.seed = Math.max(0, Math.trunc(Number(seed.value) || 0));
  save();
} });

function slider(label, min, max, step, tell, set) { // only what is moved is set: the rest stays as the address gave it
  const id = `pg-${label.toLowerCase()}`, output = make("output", { for: id, role: "presentation" }); // the range itself says its value
  const input = make("input", { type: "range", id, min, max, step });
  const show = () => {
    output.textContent = tell(Number(input.value), Number(input.max));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    set(Number(input.value), Number(input.max));
    for (const column of columns) column.drawBars();
    save();
  });
  return { input, show, element: make("div", { class: "pg-slider" }, make("label", { for: id }, label), output, input) };
}

const colours = ["surprise", "attention"].map((name) => make("button", { type: "button", "data-colour": name, onclick: () => {
  stop();
  colour = name;
  drawColour();
} }, name === "surprise" ? "surprise" : "what it looks at"));

function drawColour() {
  for (const button of colours) button.setAttribute("aria-pressed", String(button.dataset.colour === colour));
  for (const column of columns) if (column.logits) { column.drawText(); column.drawHeads(); }
}

function say(sentence) {
  live.textContent = sentence;
}

function tell(sentence, ...buttons) {
  const parts = sentence ? [make("p", {}, sentence), ...buttons] : [], said = [...message.children];
  if (parts.length === said.length && parts.every((part, i) => part.textContent === said[i].textContent)) return; // once is enough
  message.replaceChildren(...parts);
}

function remember(sentence) { // it stays when a model arrives
  notice = [notice, sentence].filter(Boolean).join(" ");
}

function remark(sentence) { // it waits behind what must be mended first
  remember(sentence);
  if (!generate.disabled) tell(notice);
}

function fault(error) { // what a model of the reader's own cannot do, for instance: its logits are not finite
  tell(error.message);
}

// ---- generating ----------------------------------------------------------------------------------------------------

function pace(done, began) {
  const reread = columns.filter(({ ids, entry }) => ids.length > entry.model.context && entry.model.tensors).map(({ entry }) => entry.model.context);
  const why = reread.length ? `: past ${Math.max(...reread)} symbols the whole context is read again for each` : "";
  return `${done} symbols, ${count(Math.round(1000 * done / (performance.now() - began)))} a second${why}`;
}

async function start(n) {
  if (!columns.length || columns.some((column) => !column.ids.length)) return;
  const mine = (running = {}), began = performance.now();
  const texts = columns.map(({ ids }) => ids); // they grow; where others stand, something else has begun
  const replaced = () => columns.length !== texts.length || columns.some(({ ids }, i) => ids !== texts[i]);
  grid.setAttribute("aria-busy", "true");
  if (n > 1) generate.textContent = "Stop";
  for (const column of columns) { column.selected = null; column.job++; }
  if (n > 1) { colour = "surprise"; drawColour(); }
  let drawn = performance.now(), done = 0;
  try {
    for (; done < n && running === mine; done++) {
      await Promise.all(columns.map((column) => column.write()));
      if (running === mine && performance.now() - drawn > 30) {
        for (const column of columns) column.grow();
        status.textContent = pace(done + 1, began);
        await new Promise((go) => (document.hidden ? setTimeout(go) : requestAnimationFrame(go)));
        drawn = performance.now();
      }
    }
  } catch (error) {
    fault(error);
  }
  for (const column of columns) column.grow();
  if (n > 1 && !replaced()) status.textContent = pace(done, began);
  if (running === mine) stop();
  else if (running) return; // Generate was pressed again before this one had ended
  const seen = await Promise.all(columns.map((column) => column.update())).catch(fault);
  if (!running) grid.removeAttribute("aria-busy");
  if (!seen || replaced()) return;
  save();
  if (!seen.every(Boolean)) return; // something newer has begun, and speaks for itself
  const [first] = columns;
  if (n > 1) say(`${done} symbols written, ending: ${first.entry.tokenizer.decode(first.ids.slice(-60))}`);
  else if (first.selected === null) say(`${named(first.symbol(first.ids.length - 1))} written. ${first.expectation()}`);
  else say(`${first.describe(first.selected)}. ${first.expectation()}`); // chosen while it was read
}

function stop() {
  running = null;
  generate.textContent = "Generate";
}

// ---- models, prompt, address ---------------------------------------------------------------------------------------

function restart(text = "") { // every column reads the prompt anew
  const unknown = new Set();
  for (const column of columns) {
    for (const symbol of state.prompt + text) if (!column.entry.tokenizer.id_of.has(symbol)) unknown.add(symbol);
  }
  const inPrompt = Array.from(state.prompt).some((symbol) => unknown.has(symbol));
  const { length } = state.prompt, fits = length > 0 && length <= LONGEST;
  prompt.setAttribute("aria-invalid", String(inPrompt || !fits));
  generate.disabled = one.disabled = grid.inert = unknown.size > 0 || !fits;
  if (length > LONGEST) return tell(`The prompt has ${count(length)} symbols, and this page reads up to ${count(LONGEST)}: shorten it.`);
  if (!length) return tell("The prompt is empty: give the model at least one symbol to continue.");
  if (unknown.size) {
    const list = Array.from(unknown, visible).slice(0, 8).join(", ");
    const who = columns.length > 1 ? "one of the models" : "this model";
    const [what, it] = unknown.size === 1 ? ["a symbol", "it"] : ["symbols", "them"];
    mend = () => known(unknown, text);
    return tell(`The ${inPrompt ? "prompt" : "text"} has ${what} that ${who} never saw: ${list}. It has no number for ${it}.`,
      make("button", { type: "button", onclick: () => mend() }, `Remove ${it}`));
  }
  tell(notice);
  status.textContent = "";
  for (const column of columns) {
    column.set(state.prompt, text);
    column.update().catch(fault);
  }
}

function known(unknown, text) { // keep only what every model knows, and if that is nothing, one symbol they share
  const keep = (symbols) => Array.from(symbols).filter((symbol) => !unknown.has(symbol)).join("");
  const left = keep(state.prompt);
  const shared = columns[0].entry.tokenizer.symbols.filter((symbol) => columns.every((column) => column.entry.tokenizer.id_of.has(symbol)));
  state.prompt = prompt.value = left.trim() ? left : shared.includes("\n") ? "\n" : shared[0] || "";
  restart(keep(text));
  save(true);
  prompt.focus();
}

function change(changed) {
  flush();
  stop();
  const text = "with" in changed ? writtenText() : "";
  notice = "";
  Object.assign(state, { text }, changed);
  arrange();
  restart(text);
  save(true);
}

function arrange() { // as many columns as models are chosen and here
  choose.value = state.model;
  against.value = models.has(state.with) || expected.has(state.with) ? state.with : "";
  const wanted = [state.model, state.with].filter((key) => models.has(key));
  while (columns.length > wanted.length) columns.pop();
  while (columns.length < wanted.length) columns.push(new Column(columns.length ? "second" : "first"));
  columns.forEach((column, i) => column.use(models.get(wanted[i])));
  const whereabouts = expected.has(state.model) ? "is on its way: up to 5 MB, once." : "is not here.";
  const awaited = make("p", { class: "pg-wait" }, `${state.model} ${whereabouts}`);
  const now = columns.length ? columns.map((column) => column.element) : [awaited];
  for (const element of [...grid.children]) if (!now.includes(element)) element.remove();
  now.forEach((element, i) => { if (element !== grid.children[i]) grid.append(element); }); // what stays keeps focus and scrolling
  grid.classList.toggle("two", columns.length > 1);
  const most = Math.max(2, ...(columns.length ? columns.map((column) => column.entry.tokenizer.vocab_size) : [65, state.k + 1]));
  sliders.k.input.max = String(most);
  sliders.k.input.value = String(state.k || most);
  sliders.k.show();
}

function writtenText() { // what follows the prompt in the first column
  const [column] = columns;
  if (!column) return state.text; // its model is still on its way
  const { ids, written, entry: { tokenizer } } = column;
  return tokenizer.decode(ids.slice(0, written)) === state.prompt ? tokenizer.decode(ids.slice(written)) : "";
}

function offer(entry) {
  const known = models.has(entry.key);
  models.set(entry.key, entry);
  if (known) return;
  const place = (key) => (order.includes(key) ? order.indexOf(key) : key ? order.length : -1); // they arrive in any order
  for (const select of [choose, against]) {
    const after = [...select.options].find((option) => place(option.value) > place(entry.key));
    select.add(new Option(entry.label, entry.key), after);
  }
}

function freeName(name, loaded) { // two runs both call their model model.safetensors
  let label = name;
  for (let n = 2; models.has(`own:${label}`) && models.get(`own:${label}`).sum !== loaded.sum; n++) label = `${name} (${n})`;
  return label;
}

async function open(chosen) { // a file of the reader's own; it never leaves this page
  stop();
  for (const old of message.querySelectorAll("[data-file]")) old.remove();
  if (!generate.disabled) tell(""); // else why nothing can be written stays said
  try {
    if (chosen.size > 500_000_000) {
      throw new checkpoint.CheckpointError(`${chosen.name} has ${count(chosen.size)} bytes: this page reads up to 500 MB`);
    }
    const loaded = await checkpoint.load_model(await chosen.arrayBuffer(), chosen.name);
    const label = freeName(chosen.name, loaded), key = `own:${label}`;
    offer({ ...loaded, key, label });
    const given = new URLSearchParams(location.hash.slice(1)), awaited = [given.get("model"), given.get("with")].includes(key);
    if (awaited && !columns.some((column) => column.entry.key === key)) show();
    else change({ model: key, off: "" });
    say(`${label} is open: ${columns.find(({ entry }) => entry.key === key).about.textContent}`);
  } catch (error) {
    const sentence = error instanceof checkpoint.CheckpointError ? `${error.message}.` : `${chosen.name} could not be read (${error.message}).`;
    if (!generate.disabled) tell("");
    message.prepend(make("p", { "data-file": true }, sentence));
    if ([state.model, state.with].some((key) => expected.has(key))) remember(sentence);
  }
}

function save(step = false) { // the address says what is to be seen; Back undoes a branch
  clearTimeout(saving);
  saving = step ? null : setTimeout(flush, 250);
  if (step) address("pushState");
}

function flush() { // what is written and not in the address yet, before something else takes its place
  if (!running && !saving) return;
  clearTimeout(saving);
  saving = null;
  address("replaceState");
}

function address(how) {
  if (state.prompt.length > LONGEST) return;
  state.text = Array.from(writtenText()).slice(0, 1500).join("");
  if (!state.with) state.off2 = "";
  columns.forEach((column, i) => { state[nameOf(column, i)] = [...column.off].join(" "); });
  const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULT[key]);
  const hash = new URLSearchParams(changed.map(([key, value]) => [key, String(value)])).toString();
  if (location.hash.slice(1) === hash) return;
  try {
    history[how](null, "", hash ? `#${hash}` : location.href.split("#")[0]);
  } catch { /* too many changes in a short time: the next one is stored */ }
}

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, DEFAULT);
  for (const key of Object.keys(DEFAULT)) {
    if (!given.has(key)) continue;
    const value = given.get(key);
    if (typeof DEFAULT[key] === "string") state[key] = value;
    else if (Number.isFinite(Number(value))) state[key] = Number(value);
  }
  state.t = Math.min(2, Math.max(0, state.t));
  state.p = Math.min(1, Math.max(0.05, state.p));
  state.k = Math.max(0, Math.trunc(state.k));
  state.seed = Math.max(0, Math.trunc(state.seed));
  prompt.value = state.prompt;
  seed.value = String(state.seed);
  sliders.t.input.value = String(state.t);
  sliders.p.input.value = String(state.p);
  for (const { show } of Object.values(sliders)) show();
}

function headsOf(names) { // "0.1 2.3", as the address names them
  return new Set(names.split(" ").filter((head) => /^\d+\.\d+$/.test(head)));
}

function nameOf(column, i) { // of its heads in the address; a second model may be here before the first
  return i === 0 && column.entry.key === state.model ? "off" : "off2";
}

function show() { // what the address says
  stop();
  fromAddress();
  const absent = [state.model, state.with].filter((key) => key && !models.has(key) && !expected.has(key));
  if (absent.includes(state.model)) Object.assign(state, { model: DEFAULT.model, off: "" }); // the heads were another model's
  if (absent.includes(state.with)) Object.assign(state, { with: "", off2: "" });
  const { off, off2, text } = state;
  arrange();
  columns.forEach((column, i) => {
    column.off = headsOf({ off, off2 }[nameOf(column, i)]);
    column.forget();
  });
  const names = absent.map((key) => key.replace("own:", "")).join(" and ");
  notice = names ? `The address names a model that is not on this page: ${names}. Open its file to see it.` : "";
  if (columns.length) restart(text);
}

// ---- begin ---------------------------------------------------------------------------------------------------------

function field(id, label, ...controls) {
  return make("div", { class: "pg-field" }, make("label", { for: id }, label), ...controls);
}

function build() {
  against.append(new Option("no other model", ""));
  const pick = make("button", { type: "button", onclick: () => file.click() }, "Open a model …");
  root.replaceChildren(
    make("div", { class: "pg-panel" },
      field("pg-prompt", "Prompt", prompt),
      make("div", { class: "pg-actions" }, generate, one, again, status),
      make("div", { class: "pg-settings" }, ...Object.values(sliders).map(({ element }) => element), field("pg-seed", "Seed", seed)),
      make("div", { class: "pg-models" }, field("pg-model", "Model", choose), field("pg-with", "Compare with", against), pick, file,
        make("span", { class: "pg-hint" }, "or drop a file here"))),
    message,
    make("div", { class: "pg-colour", role: "group", "aria-label": "What the shading shows" }, make("span", {}, "Shading: "), ...colours,
      make("span", { class: "pg-hint" }, "Click a symbol to look into it, a bar to go on with its symbol.")),
    grid, live);
  drawColour();
  prompt.addEventListener("input", () => {
    stop();
    state.prompt = prompt.value;
    state.text = "";
    restart();
    save();
  });
  const holdsFile = (event) => event.dataTransfer.types.includes("Files"); // words may be dragged into the prompt
  for (const kind of ["dragenter", "dragover"]) {
    root.addEventListener(kind, (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      root.classList.add("over");
    });
  }
  root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) root.classList.remove("over"); });
  root.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    root.classList.remove("over");
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  document.addEventListener("click", (event) => { // before a link to a place on this page acts: an edit belongs to the address it was made at
    if (event.target.closest?.("a[href]")) flush();
  }, true);
  addEventListener("popstate", () => { // a link to a place on this page is no state
    if (!document.getElementById(location.hash.slice(1))) show();
  });
  new MutationObserver(() => { for (const column of columns) column.drawHeads(); })
    .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
}

// The first model comes with the page. The others follow once its bars are drawn, or earlier if the address names them.
const versions = new Map(root.dataset.models.split(" ").map((model) => model.split("?v=")));
const order = [...versions.keys()], expected = new Set(order), later = new Set(order.slice(1));

function send(key) { // for the weights of a model of the book
  if (!later.delete(key)) return;
  const folder = document.querySelector("script[src*='playground/page.js']").src.replace(/page\.js.*$/, "weights/");
  const lost = () => { // also a script that came, and is something else: a page that asks for a password, or half of it
    if (came.has(key)) return;
    expected.delete(key);
    arrange();
    remark(`${key} could not be loaded: check the connection and load the page again.`);
  };
  document.head.append(make("script", { src: `${folder}${key}.js?v=${versions.get(key)}`, onload: lost, onerror: lost }));
}

function sendForTheRest() {
  for (const key of [...later]) send(key);
}

async function arrive([key, text]) { // the weights of a model of the book, as a script brought them
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const loaded = await checkpoint.load_model(bytes.buffer, key);
  expected.delete(key);
  offer({ ...loaded, key, label: key });
  if (key === state.model || key === state.with) {
    stop();
    const { off, off2 } = state, text = writtenText() || state.text, before = columns.map((column) => column.entry);
    arrange();
    columns.forEach((column, i) => {
      if (column.entry === before[i]) return; // the heads that it is without stay off
      column.off = headsOf({ off, off2 }[nameOf(column, i)]);
      column.forget();
    });
    restart(text);
  } else arrange();
}

build();
show();
send(state.model);
send(state.with);
setTimeout(sendForTheRest, 3000); // whatever became of the first
const brought = self.minigpt_weights || [];
const came = new Set();
const received = (model) => { came.add(model[0]); return arrive(model).catch((error) => { expected.delete(model[0]); arrange(); remark(`${error.message}.`); }); };
self.minigpt_weights = { push: received };
brought.splice(0).forEach(received);
addEventListener("load", () => { // the script of the first has come by now, or failed: then it is asked for once more
  if (came.has(order[0])) return;
  later.add(order[0]);
  send(order[0]);
});
})();
