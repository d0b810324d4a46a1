"use strict";
// Everything that comes from the server or from a file is put into the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const COLOURS = ["#3b6fe0", "#e0793b", "#2f9e6e", "#b24fc0", "#c9a227", "#3aa6c4", "#d14d6a", "#7c8b3a"];
const SMALL = 112; // pixels, below which a picture is shown with its pixels
let model = null; // what /api/model says
let chosen = null; // {file} or {video, name}
let asking = null; // AbortController of the request under way
let preview = null; // address of the file that is played

function make(tag, properties = {}, ...children) {
  const { style = {}, ...rest } = properties;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(rest)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
  element.append(...children);
  return element;
}

const percent = (score) => (score >= 0.9995 ? "100 %" : `${(100 * score).toFixed(1)} %`);
const seconds = (time) => `${time.toFixed(time < 10 ? 1 : 0)} s`;

async function json(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer, or stopped reading the file. Is mml serve still running?");
  }
  const content = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function start() {
  model = await json("/api/model");
  const peers = Object.keys(model.peers).join(", ");
  $("model").textContent = `${peers} of ${model.ckpt} · views ${model.views}, ${model.segments} segments`;
  const limits = model.limits;
  $("limits").textContent = `up to ${limits.max_mb} MB and ${limits.max_seconds} s`;
  $("split").hidden = !model.test_videos;
  $("no-split").hidden = Boolean(model.test_videos);
  $("no-split").textContent = `No test videos to choose from: ${model.no_test_videos}`;
  if (model.test_videos) await list();
}

async function list() {
  const words = $("search").value;
  const found = await json(`/api/videos?${new URLSearchParams({ search: words, first: 0 })}`);
  if (words !== $("search").value) return; // more was typed meanwhile
  $("videos").replaceChildren(
    ...found.videos.map((one) =>
      make("option", { value: one.number }, [one.id, ...one.labels].join(" · ")),
    ),
  );
  const shown = found.videos.length;
  $("found").textContent = shown < found.total ? `${shown} of ${found.total} videos` : `${found.total} videos`;
}

function choose(what) {
  chosen = what;
  if (preview) URL.revokeObjectURL(preview);
  preview = what.file ? URL.createObjectURL(what.file) : null;
  if (what.file) $("videos").selectedIndex = -1;
  ask();
}

function take(files) {
  if (!files.length) return;
  if (files.length > 1) return fail(`${files.length} files at once: drop one video.`);
  choose({ file: files[0], name: files[0].name });
}

function fail(message) {
  $("status").hidden = true;
  $("error").hidden = false;
  $("error").textContent = message;
  $("result").hidden = true;
}

function busy(text) {
  $("error").hidden = true;
  $("status").hidden = false;
  $("status").className = "faint busy";
  $("status").textContent = text;
}

async function ask(ofClass = null) {
  if (!chosen || !model) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  const { file, name } = chosen;
  if (file && file.size > model.limits.max_mb * 2 ** 20) {
    const size = (file.size / 2 ** 20).toFixed(0);
    return fail(`${name} has ${size} MB; uploads may have ${model.limits.max_mb} MB (--max-mb).`);
  }
  busy(file ? `Sending ${name} …` : `Scoring ${name} …`);
  const words = new URLSearchParams({ pictures: 1 });
  if ($("window").value) words.set("window", $("window").value);
  if (ofClass) words.set("class", ofClass);
  if (file) words.set("name", name);
  else words.set("video", chosen.video);
  const watch = setInterval(() => wait(mine, name), 1000);
  try {
    const answer = await json(`/api/predict?${words}`, { method: "POST", body: file ?? null, signal: mine.signal });
    if (asking !== mine) return;
    show(answer);
  } catch (error) {
    if (asking === mine && error.name !== "AbortError") fail(error.message);
  } finally {
    clearInterval(watch);
  }
}

async function wait(mine, name) {
  const told = await json("/api/status").catch(() => null);
  if (!told || asking !== mine || !$("status").classList.contains("busy")) return;
  const others = told.inside - 1;
  busy(others > 0 ? `Scoring ${name}: ${others} more in the queue …` : `Scoring ${name} …`);
}

function show(answer) {
  const heads = Object.keys(answer.heads);
  const parts = heads.flatMap((head) => [
    best(answer, head, heads.length > 1),
    make("h3", {}, heads.length > 1 ? `Classes of ${head}` : "Classes"),
    outputs(answer, head),
    ...without(answer, head),
    ...timeline(answer, head),
  ]);
  $("result").replaceChildren(...parts, ...(answer.seen ? seen(answer) : []));
  $("result").hidden = false;
  $("error").hidden = true;
  $("status").hidden = false;
  $("status").className = "faint";
  const size = answer.size ? `${answer.size.join(" × ")} pixels, ${answer.frames} frames` : "";
  const lasts = answer.seconds ? `${seconds(answer.seconds)}, ` : "";
  $("status").textContent = `${answer.video}: ${lasts}${size}${answer.damage ? `; ${answer.damage}` : ""}`;
}

function best(answer, head, several) {
  const main = answer.main[head];
  const [first] = answer.heads[head][main];
  const told = make(
    "div",
    {},
    make("span", { className: "tag" }, several ? `${head} · ${main}` : main),
    make("strong", { id: several ? "" : "best" }, first ? first.class : "no scores"),
    make("span", {}, first ? percent(first.score) : ""),
  );
  if (answer.labels.length && first) {
    const right = answer.labels.includes(first.class);
    const text = right ? "as labelled" : `labelled: ${answer.labels.join(", ")}`;
    told.append(make("p", { className: right ? "right" : "wrong" }, text));
  }
  const shown = make("div", { className: "best" });
  if (preview) {
    const video = make("video", { src: preview, controls: true, muted: true, loop: true, playsInline: true });
    video.setAttribute("aria-label", `The video ${answer.video}`);
    video.addEventListener("error", () => video.remove()); // the browser knows fewer codecs
    shown.append(video);
  }
  shown.append(told);
  return shown;
}

function outputs(answer, head) {
  const order = Object.keys(answer.heads[head]);
  const main = answer.main[head];
  order.sort((one, other) => (other === main) - (one === main));
  return make("div", { className: "outputs" }, ...order.map((name) => output(name, answer.heads[head][name], name === main)));
}

function output(name, classes, main) {
  const rows = classes.map(({ class: label, score }) =>
    make(
      "div",
      { className: "row" },
      make("div", {}, make("span", {}, label), make("span", { className: "number" }, percent(score))),
      make("div", { className: "bar" }, make("i", { style: { "--part": `${100 * score}%` } })),
    ),
  );
  const title = make("h4", {}, name, ...(main ? [make("span", { className: "tag" }, "main output")] : []));
  const lacking = make("p", { className: "faint" }, "the video lacks what this network looks at");
  return make("div", { className: `output${main ? " main" : ""}` }, title, ...(rows.length ? rows : [lacking]));
}

function without(answer, head) {
  const [whole] = answer.heads[head][answer.main[head]];
  const lines = Object.entries(answer.without).filter(([, heads]) => head in heads);
  if (!lines.length || !whole) return [];
  const cards = lines.map(([modality, heads]) => {
    const { classes, of_best: left } = heads[head];
    const points = 100 * (left - whole.score);
    const change = `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)} points`;
    const same = classes[0].class === whole.class;
    const note = same ? change : `${whole.class}: ${percent(left)}, ${change}`;
    const card = output(`without ${modality}`, classes.slice(0, 1), false);
    card.append(make("p", { className: "faint" }, note));
    return card;
  });
  return [make("h3", {}, "Without a modality"), make("div", { className: "outputs" }, ...cards)];
}

function table(columns, rows, numbersFrom) {
  const heads = columns.map((text, place) =>
    make("th", { scope: "col", className: place >= numbersFrom ? "number" : "" }, text),
  );
  const body = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  return make("div", { className: "wide" }, body);
}

function timeline(answer, head) {
  const windows = (answer.windows ?? []).filter((one) => one.heads[head]);
  if (windows.length < 2) return [];
  const main = answer.main[head];
  const tops = windows.map((one) => ({ ...one, top: one.heads[head][main][0] })).filter((one) => one.top);
  const names = [...new Set(tops.map((one) => one.top.class))];
  const colour = (name) => COLOURS[names.indexOf(name) % COLOURS.length];
  const end = Math.max(...tops.map((one) => one.end));
  const middles = tops.map((one) => (one.start + one.end) / 2);
  const bars = tops.map((one, place) => {
    const from = place ? (middles[place - 1] + middles[place]) / 2 : one.start;
    const to = place + 1 < tops.length ? (middles[place] + middles[place + 1]) / 2 : one.end;
    return make("i", {
      title: `${seconds(one.start)} to ${seconds(one.end)}: ${one.top.class}, ${percent(one.top.score)}`,
      style: {
        "--from": `${(100 * from) / end}%`,
        "--wide": `${(100 * (to - from)) / end}%`,
        "--part": `${100 * one.top.score}%`,
        "--colour": colour(one.top.class),
      },
    });
  });
  const rows = tops.map((one) =>
    make(
      "tr",
      {},
      make("td", {}, `${seconds(one.start)} to ${seconds(one.end)}`),
      make("td", {}, one.top.class),
      make("td", { className: "number" }, percent(one.top.score)),
    ),
  );
  return [
    make("h3", {}, `Over time (${main})`),
    make("div", { className: "timeline", role: "img", "aria-label": "The best class of each window; the table below has the numbers" }, ...bars),
    make("div", { className: "axis faint" }, make("span", {}, "0 s"), make("span", {}, seconds(end))),
    make("ul", { className: "legend" }, ...names.map((name) => make("li", {}, make("i", { style: { "--colour": colour(name) } }), name))),
    make("details", {}, make("summary", {}, "As a table"), table(["window", "best class", "probability"], rows, 2)),
  ];
}

function seen(answer) {
  const told = answer.seen;
  const known = Object.values(answer.heads[told.head]).flat().map((one) => one.class);
  const classes = [...new Set([told.class, ...known])];
  const select = make("select", { id: "of-class" }, ...classes.map((name) => make("option", { value: name }, name)));
  select.addEventListener("change", () => ask(select.value));
  const slider = make("input", { type: "range", id: "heat", min: 0, max: 1, step: 0.05, value: 0.8 });
  slider.addEventListener("input", () => document.documentElement.style.setProperty("--heat", slider.value));
  document.documentElement.style.setProperty("--heat", slider.value);
  const clip = told.clips > 1 ? ` (clip ${told.clip} of ${told.clips})` : "";
  return [
    make("h3", {}, `What the networks see, and what speaks for a class${clip}`),
    make(
      "div",
      { className: "controls" },
      make("label", { htmlFor: "of-class" }, "Grad-CAM of", select),
      make("label", { htmlFor: "heat" }, "strength", slider),
    ),
    make("p", { className: "faint" }, "Red speaks for the class. Below each segment: its part in what does."),
    ...Object.entries(told.peers).flatMap(([name, one]) => frames(name, one)),
  ];
}

function frames(name, one) {
  const title = name === one.modality ? name : `${name} (${one.modality})`;
  if (one.absent) return [make("p", { className: "faint" }, `${title}: ${one.absent}.`)];
  const notes = one.unexplained ? [make("p", { className: "faint" }, `No Grad-CAM: ${one.unexplained}.`)] : [];
  const shares = one.parts?.length === one.pictures.length ? one.parts : [];
  const strip = one.pictures.map((source, place) => {
    const picture = make("img", { src: source, alt: `${title}, segment ${place + 1}` });
    picture.addEventListener("load", () => picture.classList.toggle("small", picture.naturalWidth < SMALL));
    const heat = one.heat ? [make("img", { src: one.heat[place], alt: "", className: "heat" })] : [];
    const share = shares.length ? [make("small", {}, percent(shares[place]))] : [];
    return make("div", { className: "frame" }, make("div", {}, picture, ...heat), ...share);
  });
  const wheel = one.flow ? [make("span", { className: "wheel", title: "the colour of each direction of motion" })] : [];
  return [make("p", {}, ...wheel, make("strong", {}, title)), ...notes, make("div", { className: "frames" }, ...strip)];
}

$("file").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
for (const kind of ["dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
  });
document.addEventListener("drop", (event) => take(event.dataTransfer.files));
$("videos").addEventListener("change", (event) => {
  const option = event.target.selectedOptions[0];
  if (option) choose({ video: option.value, name: option.textContent });
});
$("search").addEventListener("input", () => list().catch((error) => fail(error.message)));
$("window").addEventListener("change", () => ask());
start().catch((error) => fail(error.message));
