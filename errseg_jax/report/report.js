"use strict";

// The gallery: labels and P(error) of each image are decoded once it comes near the window, and
// drawn again for the threshold t. A panel opens the viewer, which shows one image large.
// window.errsegReport.state() tells what is shown.
(() => {
  const IGNORE = 255;
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const slider = document.getElementById("threshold");
  const sliders = document.querySelectorAll("input.threshold");
  const valueTexts = document.querySelectorAll("output.threshold");
  const summary = document.getElementById("summary");

  // ImageData is bytes R, G, B, A; every machine that runs a browser reads them little-endian.
  const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const colours = new Uint32Array(256);
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
  // What has no label is chequered, as no class is.
  const CHECK = 4;
  const chequers = [pack([250, 250, 250]), pack([200, 200, 200])];
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
    return { grey, width: canvas.width, height: canvas.height };
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
      this.name = article.dataset.name;
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
      this.loading ??= this.read();
      return this.loading;
    }

    // Its maps lie in a script element of its own: what nobody scrolls to is never parsed.
    async read() {
      const source = JSON.parse(this.article.querySelector("script").textContent);
      const names = ["truth", "semantic", "detail", "error"];
      const decoded = await Promise.all(names.map((name) => decode(source[name])));
      const { width, height } = decoded[0];
      this.maps = Object.fromEntries(names.map((name, i) => [name, decoded[i].grey]));
      Object.assign(this, { width, height });
      for (const canvas of this.article.querySelectorAll("canvas")) Object.assign(canvas, { width, height });
      this.count();
      for (const map of ["truth", "semantic", "error"]) paint(this.canvas(map), this.colourOf(map));
      const probe = this.article.querySelector(".probe");
      this.article.addEventListener("pointermove", (event) => {
        if (event.target instanceof HTMLCanvasElement) probe.textContent = this.told(event);
      });
    }

    // What a map looks like at the threshold t: pixel -> colour.
    colourOf(map, t) {
      const { truth, semantic, detail, error } = this.maps;
      if (map === "error") return (i) => ramp[error[i]];
      if (map === "fused") return (i) => colours[error[i] / 255 > t ? detail[i] : semantic[i]];
      if (map !== "mask") {
        const labels = this.maps[map];
        return (i) => (labels[i] === IGNORE ? this.chequer(i) : colours[labels[i]]);
      }
      return (i) => {
        const isFlagged = error[i] / 255 > t;
        if (truth[i] === IGNORE) return unlabelled;
        if (semantic[i] === truth[i]) return isFlagged ? falseAlarm : unflagged;
        return isFlagged ? hit : miss;
      };
    }

    chequer(i) {
      const x = i % this.width;
      const y = (i - x) / this.width;
      return chequers[(Math.floor(x / CHECK) + Math.floor(y / CHECK)) % 2];
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
        pixels, flaggedPixels: flagged, rightPixels: right, rightBefore: before, wrong, wrongFlagged,
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
      for (const map of ["fused", "mask"]) paint(this.canvas(map), this.colourOf(map, t));
      this.scores = this.score(t);
      this.report();
    }

    report() {
      const s = this.scores;
      for (const name of ["flagged", "accuracy", "precision", "recall"]) {
        this.article.dataset[name] = s[name] === null ? "" : String(s[name]);
      }
      this.article.querySelector(".readout").textContent = this.readout();
    }

    readout() {
      const s = this.scores;
      return `${percent(s.flagged)} flagged (precision ${percent(s.precision)}, recall ${percent(s.recall)}), ` +
        `accuracy ${percent(s.before)} → ${percent(s.accuracy)}`;
    }

    // The pixel under the pointer, in words.
    told(event) {
      const canvas = event.target;
      const at = (offset, shown, size) => Math.max(0, Math.min(size - 1, Math.floor((offset / shown) * size)));
      const x = at(event.offsetX, canvas.clientWidth, this.width);
      const y = at(event.offsetY, canvas.clientHeight, this.height);
      const i = y * this.width + x;
      const { truth, semantic, detail, error } = this.maps;
      return `x ${x}, y ${y}: truth ${className(truth[i])}, network ${className(semantic[i])}, ` +
        `detail branch ${className(detail[i])}, P(error) ${(error[i] / 255).toFixed(2)}`;
    }
  }

  const items = Array.from(document.querySelectorAll("article.item"), (article) => new Item(article));
  let threshold = data.threshold;
  let scheduled = false;

  function summarise() {
    const shown = items.filter((item) => item.inView && item.scores).map((item) => item.scores);
    const sum = (name) => shown.reduce((total, s) => total + s[name], 0);
    const [pixels, flagged, found] = ["pixels", "flaggedPixels", "wrongFlagged"].map(sum);
    summary.textContent =
      `${shown.length} of ${items.length} images in view: ${percent(share(flagged, pixels))} flagged ` +
      `(precision ${percent(share(found, flagged))}, recall ${percent(share(found, sum("wrong")))}), ` +
      `accuracy ${percent(share(sum("rightBefore"), pixels))} → ${percent(share(sum("rightPixels"), pixels))}`;
  }

  function redraw() {
    scheduled = false;
    for (const item of items) if (item.inView && item.maps) item.draw(threshold);
    summarise();
    if (viewer.open) view();
  }

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(redraw);
  }

  function setThreshold(t) {
    threshold = t;
    for (const input of sliders) {
      input.value = String(t);
      input.setAttribute("aria-valuetext", `t = ${t.toFixed(3)}`);
    }
    for (const text of valueTexts) text.textContent = t.toFixed(3);
    schedule();
  }

  function readHash() {
    const match = /t=([0-9.]+)/.exec(location.hash);
    const t = match ? Number(match[1]) : NaN;
    if (t >= 0 && t <= 1) setThreshold(t);
  }

  // Which images are listed: all, or those that are there for one reason; a page of them at a time.
  const PAGE = 24;
  const filters = document.querySelectorAll("button[data-reason]");
  const more = document.getElementById("more");
  let reason = "all";
  let limit = PAGE;
  let listed = items;

  function list() {
    listed = items.filter(({ article }) => reason === "all" || article.dataset.reasons.split(" ").includes(reason));
    const shown = new Set(listed.slice(0, limit));
    for (const item of items) item.article.hidden = !shown.has(item);
    for (const button of filters) button.setAttribute("aria-pressed", String(button.dataset.reason === reason));
    more.hidden = listed.length <= limit;
    more.textContent = `show ${Math.min(PAGE, listed.length - limit)} more of ${listed.length}`;
  }

  for (const button of filters) {
    button.addEventListener("click", () => {
      reason = button.dataset.reason;
      limit = PAGE;
      list();
    });
  }
  more.addEventListener("click", () => {
    limit += PAGE;
    list();
  });
  list();

  // The viewer.
  const viewer = document.getElementById("viewer");
  const large = viewer.querySelector("canvas");
  const overImage = document.getElementById("over-image");
  const keys = viewer.querySelectorAll("[data-key]");
  const KEY_OF = { image: "none", error: "error", mask: "mask" }; // of the others: classes
  const tabs = Array.from(viewer.querySelectorAll("button[data-view]"));
  let current = null;
  let shownMap = "error";

  // A photograph out of sight is loaded once it is asked for: a lazy one never would be, behind the viewer.
  async function photoOf(item) {
    const photo = item.article.querySelector("img");
    photo.loading = "eager";
    await photo.decode();
    return photo;
  }

  async function view() {
    const [item, map, over] = [current, shownMap, overImage.checked];
    const photo = map === "image" || over ? photoOf(item) : null;
    await item.load();
    const picture = await photo;
    if (item !== current || map !== shownMap || over !== overImage.checked) return; // another was asked for since
    const { width, height } = item;
    Object.assign(large, { width, height });
    if (map !== "image") paint(large, item.colourOf(map, threshold));
    if (picture) {
      const context = large.getContext("2d");
      context.globalAlpha = map === "image" ? 1 : 0.55;
      context.drawImage(picture, 0, 0, width, height);
    }
    const label = tabs.find((tab) => tab.dataset.view === map).textContent;
    large.setAttribute("aria-label", `${label} of ${item.name}`);
    large.style.width = `min(100%, ${(60 * width) / height}vh)`;
    for (const key of keys) key.hidden = key.dataset.key !== (KEY_OF[map] ?? "classes");
    for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab.dataset.view === map));
    document.getElementById("viewer-title").textContent = item.name;
    item.scores = item.score(threshold);
    viewer.querySelector(".readout").textContent = item.readout();
  }

  function show(item, map) {
    current = item;
    shownMap = map;
    viewer.querySelector(".probe").textContent = "";
    if (!viewer.open) viewer.showModal();
    view();
  }

  function step(by) {
    const next = listed[listed.indexOf(current) + by];
    if (next) show(next, shownMap);
  }

  for (const item of items) {
    for (const button of item.article.querySelectorAll("button[data-open]")) {
      button.addEventListener("click", () => show(item, button.dataset.open));
    }
  }
  for (const tab of tabs) tab.addEventListener("click", () => show(current, tab.dataset.view));
  overImage.addEventListener("change", view);
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("close").addEventListener("click", () => viewer.close());
  large.addEventListener("pointermove", (event) => {
    if (current.maps) viewer.querySelector(".probe").textContent = current.told(event);
  });
  viewer.addEventListener("close", () => {
    while (current.article.hidden) more.click();
    current.article.scrollIntoView({ block: "nearest" });
    current.article.querySelector(`button[data-open=${shownMap}]`)?.focus({ preventScroll: true });
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ownsArrows = event.target instanceof HTMLInputElement && event.target.type === "range";
    const tab = tabs[Number(event.key) - 1];
    if (tab) show(current, tab.dataset.view);
    else if (event.key === "ArrowLeft" && !ownsArrows) step(-1);
    else if (event.key === "ArrowRight" && !ownsArrows) step(1);
    else if (event.key === "o") overImage.click();
    else return;
    event.preventDefault();
  });

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const item = items.find(({ article }) => article === entry.target);
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
      viewer: viewer.open ? { name: current.name, map: shownMap } : null,
      items: items.map(({ name, scores }) => ({
        name,
        flagged: scores ? scores.flagged : null,
        accuracy: scores ? scores.accuracy : null,
        precision: scores ? scores.precision : null,
        recall: scores ? scores.recall : null,
      })),
    }),
  };

  for (const input of sliders) {
    input.addEventListener("input", () => setThreshold(Number(input.value)));
    // On release only: browsers limit how often a page may rewrite its address.
    input.addEventListener("change", () => history.replaceState(null, "", `#t=${input.value}`));
  }
  document.getElementById("reset").addEventListener("click", () => setThreshold(data.threshold));
  window.addEventListener("hashchange", readHash);
  setThreshold(threshold);
  readHash();
  for (const item of items) watcher.observe(item.article);
})();
