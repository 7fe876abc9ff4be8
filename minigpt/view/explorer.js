/* The attention explorer: makes the weights that explorer.py packed answer to mouse, finger and keyboard.
   It replaces the table in its own element, uses no library, asks for nothing, and leaves no name behind. */
(function (key, data) {
  "use strict";
  const T = data.labels.length, MEAN = data.heads;
  const perHead = data.causal ? (T * (T + 1)) / 2 : T * T;
  const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
  const units = data.unit > 255 ? new Uint16Array(bytes.buffer) : bytes;
  const SPOKEN = {
    __proto__: null, "␣": "space", "⏎": "newline", "⇥": "tab", ",": "comma", ".": "full stop", ":": "colon",
    ";": "semicolon", "'": "apostrophe", "!": "exclamation mark", "?": "question mark", "-": "hyphen", "&": "ampersand",
    "$": "dollar",
  };

  /** How much `query` takes from `key` in one head, or in the mean of a layer's heads. */
  function weight(layer, head, query, key) {
    if (data.causal && key > query) return 0;
    const place = data.causal ? (query * (query + 1)) / 2 + key : query * T + key;
    if (head < MEAN) return units[(layer * data.heads + head) * perHead + place] / data.unit;
    let sum = 0;
    for (let h = 0; h < data.heads; h++) sum += weight(layer, h, query, key);
    return sum / data.heads;
  }

  const spoken = (i) => SPOKEN[data.labels[i]] || data.labels[i];
  const headName = (layer, head) => "layer " + layer + ", " + (head === MEAN ? "mean of the heads" : "head " + head);
  const distance = (query, key) =>
    key === query ? "itself" : key < query ? query - key + " back" : key - query + " ahead";
  const percent = (p) => (p < 0.005 ? "< 1 %" : Math.round(100 * p) + " %");

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function explorer(root) {
    let [layer, head, query] = data.start;
    let pinned = false, other = null; // other: a key under the pointer, whose one weight is read out

    // ---- color: from the ground to the heat of the theme in force, with the text that can be read on it
    let ground, heat;
    function readTheme() {
      const style = getComputedStyle(root);
      [ground, heat] = ["--mx-ground", "--mx-heat"].map((name) => {
        const hex = style.getPropertyValue(name).trim();
        return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
      });
    }
    const shade = (w) => ground.map((from, i) => Math.round(from + (heat[i] - from) * Math.pow(w, 0.6)));
    function readable(color) {
      const [r, g, b] = color.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4)));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
    }
    const hex = (color) => "#" + color.map((c) => c.toString(16).padStart(2, "0")).join("");

    /** The T x T picture of one head, one pixel a weight. */
    function paint(canvas, layer, head) {
      canvas.width = canvas.height = T;
      const context = canvas.getContext("2d"), image = context.createImageData(T, T);
      for (let q = 0; q < T; q++)
        for (let k = 0; k < T; k++) image.data.set([...shade(weight(layer, head, q, k)), 255], 4 * (q * T + k));
      context.putImageData(image, 0, 0);
    }

    // ---- the text: one button a symbol, one stop for Tab, arrows inside
    const strip = make("div", { class: "strip", role: "toolbar", "aria-label": "The text: choose a symbol" });
    const symbols = data.labels.map((label, i) => {
      const button = make("button", { type: "button", tabindex: "-1", "aria-label": spoken(i) + ", symbol " + i }, label);
      button.addEventListener("pointerenter", () => point(i));
      button.addEventListener("focus", () => { point(i); say(); });
      button.addEventListener("click", () => pin(i));
      strip.append(button);
      if (label.includes("⏎")) strip.append(make("br", {}));
      return button;
    });
    strip.addEventListener("pointerleave", () => { other = null; draw(); });
    strip.addEventListener("keydown", (event) => {
      const from = symbols.indexOf(document.activeElement);
      const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: T - 1 }[event.key];
      if (event.key === "Escape" && pinned) { pin(query); event.preventDefault(); }
      if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      if (symbols[to]) symbols[to].focus();
    });

    function point(i) {
      if (pinned) other = i;
      else { query = i; other = null; }
      draw();
    }
    function pin(i) {
      pinned = !(pinned && query === i);
      query = i;
      other = null;
      draw();
      say();
    }

    // ---- what the query looks at, what the model expects next
    const keys = make("ol", {}), keysTitle = make("p", {}), next = make("ol", {}), nextTitle = make("p", {});
    const readout = make("p", { class: "readout" });
    const chip = (i, kind) => make("span", { class: "chip " + kind }, data.labels[i]);

    function bar(share, ...before) {
      const fill = make("span", { class: "fill" });
      fill.style.width = 100 * share + "%";
      return make("li", {}, ...before, make("span", { class: "bar", "aria-hidden": "true" }, fill));
    }
    /** The key that is read out: the one pointed at, or the one with the most weight. */
    const read = () => (other === null ? best(1)[0][1] : other);
    function best(count) {
      return data.labels
        .map((_, k) => [weight(layer, head, query, k), k])
        .sort((a, b) => b[0] - a[0] || b[1] - a[1])
        .slice(0, count);
    }
    function drawLists() {
      keysTitle.replaceChildren("query ", chip(query, "query"), " looks at → keys");
      keys.replaceChildren(...best(5).filter(([w]) => w >= 0.005).map(([w, k]) =>
        bar(w, chip(k, "key"), make("span", { class: "where" }, distance(query, k)), make("span", { class: "p" }, w.toFixed(2)))));
      const target = read();
      const masked = data.causal && target > query;
      readout.replaceChildren("query ", chip(query, "query"), " symbol " + query + " → key ", chip(target, "key"),
        " symbol " + target + ": ", make("b", {}, masked ? "masked, it is later" : weight(layer, head, query, target).toFixed(3)));
      if (!data.next.length) return;
      nextTitle.replaceChildren("after ", chip(query, "query"), " the model expects");
      next.replaceChildren(...data.next[query].map(([label, p]) =>
        bar(p, make("span", { class: "chip" }, label),
          make("span", { class: "where" }, label === data.labels[query + 1] ? "it comes" : ""), make("span", { class: "p" }, percent(p)))));
    }

    // ---- every weight of the row, on demand
    const everyBody = make("tbody", {});
    const every = make("details", {}, make("summary", {}, "Every weight of this row"),
      make("div", { class: "scroll tall", role: "region", tabindex: "0", "aria-label": "Every weight of this row" },
        make("table", {}, make("thead", {}, make("tr", {}, ...["symbol", "key", "where", "weight"].map((name) => make("th", { scope: "col" }, name)))), everyBody)));
    every.addEventListener("toggle", drawEvery);
    function drawEvery() {
      if (!every.open) return;
      const last = data.causal ? query : T - 1;
      everyBody.replaceChildren(...data.labels.slice(0, last + 1).map((label, k) => make("tr", {},
        ...[k, label, distance(query, k), weight(layer, head, query, k).toFixed(3)].map((text) => make("td", {}, String(text))))));
    }

    // ---- all heads: thumbnails, one stop for Tab, arrows in two directions
    const columns = data.heads > 1 ? data.heads + 1 : 1;
    const overview = make("div", { class: "overview", role: "radiogroup", "aria-label": "Layers and heads: choose one" });
    overview.style.setProperty("--columns", columns);
    const thumbs = [];
    const axis = (text) => make("span", { class: "axis", "aria-hidden": "true" }, text);
    overview.append(axis(""), ...Array.from({ length: columns }, (_, h) => axis(h < data.heads ? (h ? "" : "head ") + h : "mean")));
    for (let l = 0; l < data.layers; l++) {
      overview.append(axis((l ? "" : "layer ") + l));
      for (let h = 0; h < columns; h++) {
        const thumb = make("button", { type: "button", role: "radio", "aria-label": headName(l, h) }, make("canvas", { "aria-hidden": "true" }));
        thumb.addEventListener("click", () => choose(l, h));
        thumbs.push(thumb);
        overview.append(thumb);
      }
    }
    overview.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      choose((layer + step[0] + data.layers) % data.layers, (head + step[1] + columns) % columns);
      thumbs[layer * columns + head].focus();
    });
    function choose(l, h) {
      [layer, head] = [l, h];
      paint(small, layer, head);
      draw();
      say();
    }

    // ---- the chosen head, enlarged: rows are queries, columns are keys
    const small = make("canvas", {}); // one pixel a weight, never shown itself
    const map = make("canvas", { class: "map", role: "img" });
    const longest = Math.max(...data.labels.map((label) => label.length));
    const LEFT = Math.min(80, 12 + 8 * longest), TOP = 20; // room for the labels
    map.style.maxWidth = Math.min(480, LEFT + 56 * T) + "px";
    function drawMap() {
      const width = map.clientWidth || 320, sharp = window.devicePixelRatio || 1, cell = (width - LEFT) / T;
      map.width = Math.round(width * sharp);
      map.height = Math.round((TOP + cell * T) * sharp);
      map.setAttribute("aria-label", "Map of " + headName(layer, head) + ": a row for each query, a column for each key");
      const context = map.getContext("2d"), style = getComputedStyle(root);
      const ink = style.getPropertyValue("--mx-ink"), warm = style.getPropertyValue("--mx-query"), blue = style.getPropertyValue("--mx-key");
      context.scale(sharp, sharp);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, LEFT, TOP, cell * T, cell * T);
      const font = (bold, size) => (context.font = bold + size + "px ui-monospace, Menlo, Consolas, monospace");
      context.textAlign = "center";
      context.textBaseline = "middle";
      const target = read();
      data.labels.forEach((label, i) => {
        const across = LEFT + (i + 0.5) * cell, down = TOP + (i + 0.5) * cell, size = Math.min(13, Math.max(9, cell));
        for (const [here, color, x, y, room] of [[i === query, warm, LEFT / 2, down, LEFT - 4], [i === target, blue, across, TOP / 2, cell - 4]]) {
          if (cell < 9 && !here) continue;
          context.fillStyle = here ? color : ink;
          font(here ? "bold " : "", here ? 13 : size);
          context.fillText(label, x, y, Math.max(room, 12));
        }
        if (cell < 32) return;
        font("", 12);
        for (let k = 0; k < (data.causal ? i + 1 : T); k++) {
          const w = weight(layer, head, i, k);
          context.fillStyle = readable(shade(w));
          context.fillText(w.toFixed(2), LEFT + (k + 0.5) * cell, down);
        }
      });
      const row = TOP + query * cell, column = LEFT + (target + 0.5) * cell;
      context.lineWidth = 2;
      context.strokeStyle = warm;
      context.strokeRect(LEFT, row - 1, (data.causal ? query + 1 : T) * cell, cell + 2);
      if (cell >= 32) return;
      context.strokeStyle = blue;
      context.beginPath();
      context.moveTo(column, TOP - 3);
      context.lineTo(column, Math.max(TOP - 3, row - 1));
      context.stroke();
    }
    function onMap(event) {
      const box = map.getBoundingClientRect(), cell = (box.width - LEFT) / T;
      const q = Math.floor((event.clientY - box.top - TOP) / cell), k = Math.floor((event.clientX - box.left - LEFT) / cell);
      return q >= 0 && q < T && k >= 0 && k < T ? [q, k] : null;
    }
    map.addEventListener("pointermove", (event) => {
      const cell = onMap(event);
      if (!cell) return;
      if (!pinned) query = cell[0];
      other = cell[1];
      draw();
    });
    map.addEventListener("pointerleave", () => { other = null; draw(); });
    map.addEventListener("click", (event) => { const cell = onMap(event); if (cell) pin(cell[0]); });

    // ---- drawing and speaking
    const live = make("p", { class: "spoken", role: "status", "aria-live": "polite" });
    const mapTitle = make("p", {});
    let speaking = null;
    function say() {
      clearTimeout(speaking);
      speaking = setTimeout(() => {
        const looks = best(3).filter(([w], i) => !i || w >= 0.005).map(([w, k]) => spoken(k) + ", " + distance(query, k) + ", " + w.toFixed(2));
        const guesses = data.next.length ? " Expected next: " + data.next[query].slice(0, 3)
          .map(([label, p]) => (SPOKEN[label] || label) + ", " + percent(p)).join("; ") + "." : "";
        live.textContent = other !== null && other !== query
          ? "From " + spoken(query) + ", symbol " + query + ", to " + spoken(other) + ", symbol " + other + ": " +
            (data.causal && other > query ? "masked, it is later." : weight(layer, head, query, other).toFixed(3) + ".")
          : headName(layer, head) + ". " + spoken(query) + ", symbol " + query + (pinned ? ", pinned," : "") +
            " looks at: " + looks.join("; ") + "." + guesses;
      }, 150);
    }
    function draw() {
      const target = read();
      symbols.forEach((symbol, i) => {
        const later = data.causal && i > query, color = shade(weight(layer, head, query, i));
        symbol.className = (i === query ? "query " : "") + (later ? "later " : "") + (i === target && i !== query ? "key" : "");
        symbol.style.background = later ? "" : hex(color);
        symbol.style.color = later ? "" : readable(color);
        symbol.setAttribute("aria-pressed", String(pinned && i === query));
        symbol.tabIndex = i === (pinned && other !== null ? other : query) ? 0 : -1;
      });
      thumbs.forEach((thumb, i) => {
        const chosen = i === layer * columns + head;
        thumb.setAttribute("aria-checked", String(chosen));
        thumb.tabIndex = chosen ? 0 : -1;
      });
      root.classList.toggle("pinned", pinned);
      mapTitle.replaceChildren(make("b", {}, headName(layer, head)), ": row = query, column = key");
      drawLists();
      drawEvery();
      drawMap();
    }
    let painted = "";
    function repaint() {
      if (!root.isConnected) return;  // out of the page there are no colors to read
      readTheme();
      const colors = String([ground, heat]);
      if (colors === painted) return;
      painted = colors;
      thumbs.forEach((thumb, i) => paint(thumb.firstChild, Math.floor(i / columns), i % columns));
      paint(small, layer, head);
      draw();
    }

    // ---- put together
    const help = make("p", { class: "help" },
      "Point at a symbol, or reach it with Tab and the arrow keys. Click or Enter pins it: then any other symbol shows its one weight. Esc lets go.");
    const legend = make("p", { class: "legend" }, make("span", { class: "chip query" }, "query"), " the symbol that looks  →  ",
      make("span", { class: "chip ramp" }, "keys"), " what it looks at, the stronger the more",
      ...(data.causal ? ["; ", make("span", { class: "chip later" }, "later"), " masked"] : []));
    const lists = make("div", { class: "lists" }, make("div", {}, keysTitle, keys), ...(data.next.length ? [make("div", {}, nextTitle, next)] : []));
    const maps = make("div", { class: "maps" },
      ...(thumbs.length > 1 ? [make("div", {}, make("p", {}, "all heads: choose one"), overview)] : []), make("div", {}, mapTitle, map));
    const title = data.title ? [make("p", { class: "title" }, data.title)] : [];
    const view = make("div", { class: "view" }, ...title, legend, strip, readout, lists, every, maps, help, live);
    view.style.setProperty("--chip", Math.min(12, longest + 2) + "ch");
    view.style.setProperty("--rows", Math.min(5, T));
    root.replaceChildren(root.querySelector("style"), view);
    repaint();
    new ResizeObserver(() => { repaint(); drawMap(); }).observe(map);  // a view that comes back may find a new theme
    root.addEventListener("theme", repaint);
    followTheme(root);
  }

  function followTheme(root) {  // holds the view weakly, so that one whose cell is run again can be forgotten
    const view = new WeakRef(root), queries = ["(prefers-color-scheme: dark)", "print"].map((query) => matchMedia(query));
    const watch = new MutationObserver(tell);
    function tell() {
      if (view.deref()) { view.deref().dispatchEvent(new Event("theme")); return; }
      watch.disconnect();
      for (const query of queries) query.removeEventListener("change", tell);
    }
    for (const query of queries) query.addEventListener("change", tell);
    for (const element of [document.documentElement, document.body])
      watch.observe(element, { attributes: true, attributeFilter: ["data-theme", "theme", "class", "data-jp-theme-light"] });
  }

  for (const root of document.querySelectorAll('[data-explorer="' + key + '"]:not([data-ready])')) {
    root.dataset.ready = "";
    explorer(root);
  }
});
