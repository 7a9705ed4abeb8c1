// The page: sends an image, shows what comes back. window.errsegPage.state() tells what is shown.

import { Camera } from "./camera.js";
import { png } from "./png.js";

const run = JSON.parse(document.getElementById("run").textContent);
const at = (id) => document.getElementById(id);
const slider = at("threshold");
const stage = at("stage");
const viewButtons = Array.from(document.querySelectorAll(".view"));
const views = viewButtons.map((button) => button.dataset.view);
const THUMBNAIL = 160; // pixels of a view's button
const PLANES = ["semantic", "detail", "labels", "error"];

// ImageData is bytes R, G, B, A; every machine that runs a browser reads them little-endian.
const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const colours = new Uint32Array(256).fill(pack([0, 0, 0]));
run.palette.forEach((colour, i) => { colours[i] = pack(colour); });
const ramp = Uint32Array.from(run.ramp, pack);
const FLAG = [0, 114, 178]; // --hit
const flagged = Uint32Array.from(run.ramp, (colour) => pack(colour.map((c, i) => Math.round(0.25 * c + 0.75 * FLAG[i]))));
const half = (a, b) => (((a & 0xfefefe) >>> 1) + ((b & 0xfefefe) >>> 1) + 0xff000000) >>> 0;
const percent = (x) => (x > 0 && x < 0.05 ? "< 0.1 %" : `${x.toFixed(1)} %`);

let shown = null; // the last answer
let view = run.detail ? "labels" : "semantic";
let threshold = run.threshold;
let scheduled = false;
let sending = null; // AbortController of the request under way
let last = null; // { blob, name } that was sent last

// --- drawing

function labelsOf(name) {
  return { semantic: shown.semantic, labels: shown.labels, slider: shown.slider }[name] ?? null;
}

function colourOf(name) {
  const { pixels, error } = shown;
  const over = at("blend").checked && name !== "image" ? (word, i) => half(word, pixels[i]) : (word) => word;
  if (name === "image") return (i) => pixels[i];
  if (name === "error") return (i) => over(error[i] / 255 > threshold ? flagged[error[i]] : ramp[error[i]], i);
  const labels = labelsOf(name);
  return (i) => over(colours[labels[i]], i);
}

// Every pixel, or as many as the canvas has.
function paint(canvas, height, width, name) {
  canvas.width = width;
  canvas.height = height;
  const colour = colourOf(name);
  const image = new ImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  for (let y = 0, k = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * shown.height) / height) * shown.width;
    for (let x = 0; x < width; x++, k++) words[k] = colour(row + Math.floor(((x + 0.5) * shown.width) / width));
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function bySlider() {
  const { semantic, detail, error, slider: out } = shown;
  let [over, changed] = [0, 0];
  for (let i = 0; i < out.length; i++) {
    const flag = error[i] / 255 > threshold;
    out[i] = flag ? detail[i] : semantic[i];
    over += flag;
    changed += out[i] !== semantic[i];
  }
  shown.over = (100 * over) / out.length;
  shown.changed = (100 * changed) / out.length;
  const relabelled = run.detail ? `, ${percent(shown.changed)} take another label` : "";
  at("summary").textContent = `${percent(shown.over)} of the pixels over t${relabelled}`;
}

function legend() {
  const labels = labelsOf(view);
  const list = at("legend");
  list.replaceChildren();
  shown.legend = [];
  if (!labels) return;
  const counts = new Float64Array(256);
  for (const label of labels) counts[label]++;
  const present = run.classes.map((name, i) => ({ name, i, share: (100 * counts[i]) / labels.length }));
  shown.legend = present.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
  for (const { name, i, share } of shown.legend) {
    const [item, swatch, text, number] = ["li", "i", "span", "b"].map((tag) => document.createElement(tag));
    swatch.className = "swatch";
    swatch.style.background = `rgb(${run.palette[i].join(",")})`;
    text.textContent = name;
    number.textContent = percent(share);
    item.append(swatch, text, number);
    list.append(item);
  }
}

const MEANINGS = {
  image: "The image as the network saw it.",
  semantic: "Labels of the frozen network.",
  error: `${run.score} of each pixel of the network's labels.`,
  labels: "The corrected labels.",
  slider: `The detail branch's label where ${run.score} is over t.`,
};

function draw() {
  scheduled = false;
  if (!shown) return;
  bySlider();
  paint(stage, shown.height, shown.width, view);
  const scale = Math.min(1, THUMBNAIL / Math.max(shown.height, shown.width));
  const small = [shown.height, shown.width].map((n) => Math.max(1, Math.round(scale * n)));
  for (const button of viewButtons) {
    paint(button.querySelector("canvas"), ...small, button.dataset.view);
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  stage.classList.toggle("crisp", view !== "image");
  stage.setAttribute("aria-label", `${MEANINGS[view]} ${shown.name}`);
  at("meaning").textContent = MEANINGS[view];
  at("ramp").hidden = view !== "error";
  at("download").hidden = view === "image";
  legend();
  shown.drawn = { view, threshold };
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(draw);
}

function setView(name) {
  if (!shown || !views.includes(name)) return;
  view = name;
  schedule();
}

function setThreshold(t) {
  threshold = t;
  slider.value = String(t);
  at("threshold-value").textContent = t.toFixed(3);
  slider.setAttribute("aria-valuetext", `t = ${t.toFixed(3)}`);
  schedule();
}

function probe(event) {
  if (!shown) return;
  const place = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
  const x = place(event.offsetX, stage.clientWidth, shown.width);
  const y = place(event.offsetY, stage.clientHeight, shown.height);
  const i = y * shown.width + x;
  const corrected = run.detail
    ? `, corrected ${run.classes[shown.labels[i]]}, detail branch ${run.classes[shown.detail[i]]}` : "";
  at("probe").textContent = `x ${x}, y ${y}: network ${run.classes[shown.semantic[i]]}${corrected}, ` +
    `${run.score} ${(shown.error[i] / 255).toFixed(2)}`;
}

// --- messages

function say(text) {
  at("status").textContent = text;
}

function fail(line, shrinkable = false) {
  say("");
  at("error").hidden = false;
  at("error").querySelector("p").textContent = line;
  at("shrink").hidden = !shrinkable;
}

class Refusal extends Error {
  constructor(line, shrinkable) {
    super(line);
    this.shrinkable = shrinkable;
  }
}

// --- sending

async function shrunk(bitmap, longest) {
  const scale = longest / Math.max(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return { blob, height: canvas.height, width: canvas.width };
}

// What is sent of a file; the browser turns it upright as the server does.
async function prepared(blob) {
  const longest = Number(at("longest").value);
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob);
  } catch { /* a TIFF, or no image: the server says */ }
  if (bitmap && longest && Math.max(bitmap.width, bitmap.height) > longest) return shrunk(bitmap, longest);
  if (!bitmap && longest) say("This browser cannot read the file to shrink it: it is sent as it is.");
  if (blob.size > run.megabytes * 1e6) {
    throw new Refusal(`the file has ${(blob.size / 1e6).toFixed(1)} MB; the limit is ${run.megabytes} MB`, bitmap !== null);
  }
  return { blob, height: bitmap?.height ?? 0, width: bitmap?.width ?? 0 };
}

async function asked(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the server does not answer: is `errseg serve` still running?", false);
  }
}

async function refuseUnless(response) {
  if (response.ok) return response;
  const line = await response.json().then(({ error }) => error, () => `status ${response.status}`);
  throw new Refusal(line, response.status === 413);
}

async function pixelsOf(jpeg, height, width) {
  const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
}

// serve/predictor.py says how an answer is packed.
async function unpacked(response) {
  const body = await response.arrayBuffer();
  const length = new DataView(body).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  const size = told.height * told.width;
  const planes = PLANES.map((name, i) => [name, new Uint8Array(body, 4 + length + i * size, size)]);
  const jpeg = new Uint8Array(body, 4 + length + PLANES.length * size);
  const pixels = await pixelsOf(jpeg, told.height, told.width);
  return { ...told, ...Object.fromEntries(planes), pixels, slider: new Uint8Array(size) };
}

function present(name, answer, times, quietly) {
  shown = { ...answer, name };
  at("name").textContent = name;
  if (!quietly) at("probe").textContent = "Point at a pixel to read it.";
  at("headline").textContent =
    `${answer.width} × ${answer.height} pixels; expected accuracy of the network's labels ` +
    `${percent(answer.expected_accuracy)}, from ${run.score} alone.`;
  const rows = Object.entries(times).map(([step, time]) => {
    const [row, head, cell] = ["tr", "th", "td"].map((tag) => document.createElement(tag));
    head.scope = "row";
    head.textContent = step === "network" && answer.compiled ? "network, compiled for this size first" : step;
    cell.textContent = `${time.toFixed(time < 10 ? 1 : 0)} ms`;
    row.append(head, cell);
    return row;
  });
  at("times").tBodies[0].replaceChildren(...rows);
  const ratio = answer.width / answer.height;
  stage.style.width = `min(100%, ${(75 * ratio).toFixed(3)}vh)`;
  const first = at("result").hidden;
  at("result").hidden = false;
  draw();
  if (first && !quietly) at("result").scrollIntoView({ block: "nearest" });
}

async function exchange(blob, name, signal, quietly) {
  const start = performance.now();
  const { blob: body, height, width } = await prepared(blob);
  if (height) {
    const { compiled } = await asked(`size?height=${height}&width=${width}`, { signal }).then(refuseUnless).then((r) => r.json());
    if (!compiled) say(`Compiling for ${width} × ${height}, once for this size …`);
    else if (!quietly) say(`Labelling ${name} …`);
  } else {
    say(`Labelling ${name} …`);
  }
  const sent = performance.now();
  const response = await asked("predict", { method: "POST", body, signal }).then(refuseUnless);
  const answer = await unpacked(response);
  const end = performance.now();
  const served = (response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  const times = Object.fromEntries(Array.from(served, ([, step, time]) => [step, Number(time)]));
  const server = Object.values(times).reduce((sum, time) => sum + time, 0);
  present(name, answer, { ...times, "transfer and page": end - sent - server, total: end - start }, quietly);
  return end - start;
}

// Whether it was answered. A newer image ends the wait for an older one.
async function send(blob, name, quietly = false) {
  sending?.abort();
  const own = new AbortController();
  sending = own;
  last = { blob, name };
  at("error").hidden = true;
  if (!quietly) say(`Reading ${name} …`);
  document.body.classList.toggle("busy", !quietly);
  try {
    const time = await exchange(blob, name, own.signal, quietly);
    say(quietly ? `${(1000 / time).toFixed(1)} frames a second` : `Answered in ${time.toFixed(0)} ms.`);
    return true;
  } catch (error) {
    if (own.signal.aborted) return false;
    const line = error instanceof Refusal ? error.message : `the answer cannot be shown: ${error.message}`;
    fail(`${name}: ${line}`, error.shrinkable);
    return false;
  } finally {
    if (sending === own) {
      sending = null;
      document.body.classList.remove("busy");
    }
  }
}

async function sendFile(files) {
  const [file, ...others] = files;
  if (!file) {
    fail("What was dropped is no file: save the image first, and drop that.");
    return;
  }
  try {
    // A folder fails here; and a file that changes later is sent as it was.
    const sent = await send(new Blob([await file.arrayBuffer()], { type: file.type }), file.name);
    if (sent && others.length) say(`One image at a time: ${file.name} was taken, ${others.length} more left out.`);
  } catch {
    fail(`${file.name} cannot be read: is it a folder?`);
  }
}

// --- ways in

for (const kind of ["dragenter", "dragover"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("over-page");
  });
}
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over-page");
});
window.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over-page");
  sendFile(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) sendFile(event.clipboardData.files);
});
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  if (at("file").files.length) sendFile(at("file").files);
  at("file").value = ""; // the same file may be chosen again
});
at("shrink").addEventListener("click", () => {
  at("longest").value = "1024";
  send(last.blob, last.name);
});
for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", async () => {
    try {
      const response = await asked(`examples/${button.dataset.index}`, {}).then(refuseUnless);
      await send(await response.blob(), button.dataset.name);
    } catch (error) {
      fail(`${button.dataset.name}: ${error.message}`);
    }
  });
}

const camera = new Camera(at("video"));
at("camera").addEventListener("click", async () => {
  if (camera.on) return;
  at("error").hidden = true;
  try {
    await camera.start();
    at("live").hidden = false;
  } catch (error) {
    fail(error.message[0].toUpperCase() + error.message.slice(1) + ".");
  }
});
at("off").addEventListener("click", () => {
  at("continuous").checked = false;
  camera.stop();
  at("live").hidden = true;
});
at("shoot").addEventListener("click", async () => send(await camera.frame(), "webcam"));
at("continuous").addEventListener("change", async () => {
  while (camera.on && at("continuous").checked) {
    if (!await send(await camera.frame(), "webcam", true)) at("continuous").checked = false;
  }
});

// --- what is looked at

for (const button of viewButtons) button.addEventListener("click", () => setView(button.dataset.view));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  if (/^[1-9]$/.test(event.key)) setView(views[Number(event.key) - 1]);
});
slider.addEventListener("input", () => setThreshold(Number(slider.value)));
at("reset").addEventListener("click", () => setThreshold(run.threshold));
at("blend").addEventListener("change", schedule);
stage.addEventListener("pointermove", probe);
stage.addEventListener("pointerdown", probe);
at("download").addEventListener("click", async () => {
  const plane = view === "error" ? shown.error : labelsOf(view);
  const blob = await png(plane, shown.height, shown.width, view === "error" ? null : run.palette);
  const link = document.createElement("a");
  const suffix = { semantic: "labels", error: "error", labels: "corrected", slider: "by_slider" }[view];
  link.download = `${shown.name.replace(/\.[^.]*$/, "")}_${suffix}.png`;
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

const bar = at("ramp").querySelector("canvas");
const line = new ImageData(256, 1);
new Uint32Array(line.data.buffer).set(ramp);
bar.getContext("2d").putImageData(line, 0, 0);
setThreshold(threshold);

window.errsegPage = {
  png,
  state: () => ({
    busy: sending !== null,
    error: at("error").hidden ? "" : at("error").querySelector("p").textContent,
    view,
    threshold,
    shown: shown && {
      name: shown.name, height: shown.height, width: shown.width, over: shown.over, changed: shown.changed,
      compiled: shown.compiled, drawn: shown.drawn, legend: shown.legend,
    },
  }),
};
