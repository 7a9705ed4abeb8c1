"use strict";

// The gallery: labels and P(error) of each image are decoded once it comes near the window, and
// drawn again for the threshold t. window.errsegReport.state() tells what is shown.
(() => {
  const IGNORE = 255;
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const slider = document.getElementById("threshold");
  const valueText = document.getElementById("threshold-value");
  const summary = document.getElementById("summary");

  // ImageData is bytes R, G, B, A; every machine that runs a browser reads them little-endian.
  const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const colours = new Uint32Array(256).fill(pack([0, 0, 0]));
  data.palette.forEach((colour, i) => { colours[i] = pack(colour); });
  const ramp = Uint32Array.from(data.ramp, pack);
  const cssColour = (name) => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    return pack([1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  };
  const hit = cssColour("--hit");
  const falseAlarm = cssColour("--false");
  const miss = cssColour("--miss");
  const unflagged = pack([240, 240, 240]);
  const unlabelled = pack([120, 120, 120]);

  const percent = (x, digits = 1) => (x === null ? "–" : `${x.toFixed(digits)} %`);
  const share = (part, whole) => (whole > 0 ? (100 * part) / whole : null);
  const className = (id) => (id === IGNORE ? "unlabelled" : data.classes[id]);

  async function decode(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const grey = new Uint8Array(pixels.length / 4);
    for (let i = 0; i < grey.length; i++) grey[i] = pixels[4 * i];
    return grey;
  }

  function paint(canvas, colourOf) {
    const image = new ImageData(canvas.width, canvas.height);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < words.length; i++) words[i] = colourOf(i);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  class Item {
    constructor(article) {
      this.article = article;
      this.source = data.items[Number(article.dataset.index)];
      this.inView = false;
      this.loading = null;
      this.maps = null;
      this.scores = null;
      this.drawn = null;
    }

    canvas(name) {
      return this.article.querySelector(`canvas[data-map=${name}]`);
    }

    load() {
      this.loading ??= Promise.all(
        ["truth", "semantic", "detail", "error"].map((name) => decode(this.source[name])),
      ).then(([truth, semantic, detail, error]) => {
        this.maps = { truth, semantic, detail, error };
        this.count();
        paint(this.canvas("truth"), (i) => colours[truth[i]]);
        paint(this.canvas("semantic"), (i) => colours[semantic[i]]);
        paint(this.canvas("error"), (i) => ramp[error[i]]);
        this.article.addEventListener("pointermove", (event) => this.probe(event));
      });
      return this.loading;
    }

    // Pixels by the 8-bit value of P(error): each read-out is then a sum over 256 numbers.
    count() {
      const { truth, semantic, detail, error } = this.maps;
      this.labelled = new Float64Array(256);
      this.semanticRight = new Float64Array(256);
      this.detailRight = new Float64Array(256);
      for (let i = 0; i < truth.length; i++) {
        if (truth[i] === IGNORE) continue;
        this.labelled[error[i]]++;
        if (semantic[i] === truth[i]) this.semanticRight[error[i]]++;
        if (detail[i] === truth[i]) this.detailRight[error[i]]++;
      }
    }

    score(t) {
      let [pixels, flagged, right, wrong, wrongFlagged, before] = [0, 0, 0, 0, 0, 0];
      for (let v = 0; v < 256; v++) {
        const isFlagged = v / 255 > t;
        const errors = this.labelled[v] - this.semanticRight[v];
        pixels += this.labelled[v];
        before += this.semanticRight[v];
        wrong += errors;
        right += isFlagged ? this.detailRight[v] : this.semanticRight[v];
        flagged += isFlagged ? this.labelled[v] : 0;
        wrongFlagged += isFlagged ? errors : 0;
      }
      return {
        pixels, flaggedPixels: flagged, rightPixels: right, rightBefore: before,
        flagged: share(flagged, pixels),
        accuracy: share(right, pixels),
        before: share(before, pixels),
        precision: share(wrongFlagged, flagged),
        recall: share(wrongFlagged, wrong),
      };
    }

    draw(t) {
      if (this.drawn === t) return;
      this.drawn = t;
      const { truth, semantic, detail, error } = this.maps;
      paint(this.canvas("fused"), (i) => colours[error[i] / 255 > t ? detail[i] : semantic[i]]);
      paint(this.canvas("mask"), (i) => {
        const isFlagged = error[i] / 255 > t;
        if (truth[i] === IGNORE) return unlabelled;
        if (semantic[i] === truth[i]) return isFlagged ? falseAlarm : unflagged;
        return isFlagged ? hit : miss;
      });
      this.scores = this.score(t);
      this.report();
    }

    report() {
      const s = this.scores;
      for (const name of ["flagged", "accuracy", "precision", "recall"]) {
        this.article.dataset[name] = s[name] === null ? "" : String(s[name]);
      }
      this.article.querySelector(".readout").textContent =
        `${percent(s.flagged)} flagged (precision ${percent(s.precision)}, recall ${percent(s.recall)}), ` +
        `accuracy ${percent(s.before)} → ${percent(s.accuracy)}`;
    }

    probe(event) {
      const canvas = event.target;
      if (!(canvas instanceof HTMLCanvasElement)) return;
      const x = Math.min(canvas.width - 1, Math.floor((event.offsetX / canvas.clientWidth) * canvas.width));
      const y = Math.min(canvas.height - 1, Math.floor((event.offsetY / canvas.clientHeight) * canvas.height));
      const i = Math.max(0, y) * canvas.width + Math.max(0, x);
      const { truth, semantic, detail, error } = this.maps;
      this.article.querySelector(".probe").textContent =
        `x ${x}, y ${y}: truth ${className(truth[i])}, network ${className(semantic[i])}, ` +
        `detail branch ${className(detail[i])}, P(error) ${(error[i] / 255).toFixed(2)}`;
    }
  }

  const items = Array.from(document.querySelectorAll("article.item"), (article) => new Item(article));
  let threshold = data.threshold;
  let scheduled = false;

  function summarise() {
    const shown = items.filter((item) => item.inView && item.scores).map((item) => item.scores);
    const sum = (name) => shown.reduce((total, s) => total + s[name], 0);
    const pixels = sum("pixels");
    summary.textContent =
      `${shown.length} of ${items.length} images in view: ${percent(share(sum("flaggedPixels"), pixels))} flagged, ` +
      `accuracy ${percent(share(sum("rightBefore"), pixels))} → ${percent(share(sum("rightPixels"), pixels))}`;
  }

  function redraw() {
    scheduled = false;
    for (const item of items) if (item.inView && item.maps) item.draw(threshold);
    summarise();
  }

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(redraw);
  }

  function setThreshold(t) {
    threshold = t;
    slider.value = String(t);
    valueText.textContent = t.toFixed(3);
    slider.setAttribute("aria-valuetext", `t = ${t.toFixed(3)}`);
    schedule();
  }

  function readHash() {
    const match = /t=([0-9.]+)/.exec(location.hash);
    const t = match ? Number(match[1]) : NaN;
    if (t >= 0 && t <= 1) setThreshold(t);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const item = items[Number(entry.target.dataset.index)];
      item.inView = entry.isIntersecting;
      if (item.inView) item.load().then(redraw);
    }
    summarise();
  }, { rootMargin: "200px" });

  window.errsegReport = {
    setThreshold,
    shownThreshold: () => items.find((item) => item.inView)?.drawn,
    state: () => ({
      threshold,
      items: items.map(({ source, scores }) => ({
        name: source.name,
        flagged: scores ? scores.flagged : null,
        accuracy: scores ? scores.accuracy : null,
        precision: scores ? scores.precision : null,
        recall: scores ? scores.recall : null,
      })),
    }),
  };

  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  // On release only: browsers limit how often a page may rewrite its address.
  slider.addEventListener("change", () => history.replaceState(null, "", `#t=${slider.value}`));
  document.getElementById("reset").addEventListener("click", () => setThreshold(data.threshold));
  window.addEventListener("hashchange", readHash);
  setThreshold(threshold);
  readHash();
  for (const item of items) watcher.observe(item.article);
})();
