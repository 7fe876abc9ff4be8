/* The front page's model: shade each symbol of a line by the weight with which one head reads it. No dependency. */
(function () {
  "use strict";
  const { sign, named, shade } = self.symbols;
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function choice(label, count, chosen, change) {
    const select = make("select", {});
    for (let i = 0; i < count; i++) select.append(new Option(String(i), String(i), i === chosen, i === chosen));
    select.addEventListener("change", () => change(Number(select.value)));
    return make("label", {}, label + " ", select);
  }

  function reader(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
    const line = figure.querySelector(".reader-line");
    const symbols = [...line.children];
    line.setAttribute("aria-label", line.getAttribute("aria-label") + "; each symbol is shaded by the weight with which the model reads it.");
    const next = figure.querySelector(".reader-next");
    const controls = figure.querySelector(".reader-controls");
    const triangle = (data.length * (data.length + 1)) / 2;
    let { layer, head, position } = data.start;

    function weight(t, s) {
      return bytes[(layer * data.heads + head) * triangle + (t * (t + 1)) / 2 + s] / 255;
    }

    function draw() {
      symbols.forEach((symbol, s) => {
        symbol.className = s === position ? "here" : s > position ? "later" : "";
        shade(symbol, s <= position ? Math.pow(weight(position, s), 0.6) : 0);
      });
      next.replaceChildren(
        ...data.next[position].map(([symbol, p]) => {
          const bar = make("span", { class: "bar" });
          bar.style.width = (100 * p).toFixed(1) + "%";
          return make("li", {}, make("code", {}, sign(symbol)), bar, make("span", { class: "p" }, Math.round(100 * p) + " %"));
        })
      );
    }

    const slider = make("input", { type: "range", min: "0", max: String(data.length - 1), value: String(position) });
    slider.addEventListener("input", () => { stop(); move(Number(slider.value)); });
    function move(to) {
      position = to;
      slider.value = String(to);
      const symbol = symbols[to].textContent;
      slider.setAttribute("aria-valuetext", "symbol " + (to + 1) + ", " + named(symbol));
      draw();
    }

    let timer = null, ends = null;
    const play = make("button", { type: "button" }, "Read on");
    function stop() { clearInterval(timer); clearTimeout(ends); timer = null; play.textContent = "Read on"; }
    function start() {
      play.textContent = "Pause";
      timer = setInterval(() => move((position + 1) % data.length), 450);
    }
    play.addEventListener("click", () => (timer ? stop() : start()));
    symbols.forEach((symbol, s) => symbol.addEventListener("pointerenter", () => { stop(); move(s); }));

    controls.append(
      make("label", { class: "along" }, "Symbol ", slider),
      choice("Layer", data.layers, layer, (value) => { layer = value; draw(); }),
      choice("Head", data.heads, head, (value) => { head = value; draw(); }),
      play
    );
    next.before(make("p", { class: "reader-title" }, "What the model expects next"));
    move(position);
    if (!still.matches) {
      const seen = new IntersectionObserver((entries) => {
        if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); start(); ends = setTimeout(stop, 9000); }
      });
      seen.observe(figure);
    }
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("[data-reader]").forEach(reader));
})();
