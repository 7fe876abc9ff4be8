/* How a symbol is shown, spoken and shaded: on the front page and on the playground. No dependency. */
self.symbols = (() => {
  "use strict";
  const SIGNS = { "\n": "⏎", " ": "␣", "\t": "⇥" };
  const NAMES = { // a screen reader says nothing for a bare sign
    "\n": "new line", "⏎": "new line", " ": "space", "\t": "tab", ",": "comma", ".": "full stop", ":": "colon", ";": "semicolon",
    "'": "apostrophe", "!": "exclamation mark", "?": "question mark", "-": "hyphen", "&": "ampersand", "$": "dollar",
  };

  function shade(element, amount) { // 0 … 1, never between the tones on which neither ink could be read
    const strong = amount > 0.5;
    element.style.setProperty("--shade", amount < 0.02 ? 0 : (strong ? 0.8 + 0.4 * (amount - 0.5) : 0.8 * amount).toFixed(3));
    element.classList.toggle("strong", strong);
  }

  return { sign: (symbol) => SIGNS[symbol] || symbol, named: (symbol) => NAMES[symbol] || symbol, shade };
})();
