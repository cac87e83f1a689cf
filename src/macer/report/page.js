"use strict";

const page = JSON.parse(document.getElementById("data").textContent);

/* Plots. A colour is the name of a CSS variable, so that one description serves light, dark and paper. */

function colour(name) {
  const [variable, faint] = name.split(" ");
  const value = getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
  return faint ? value + "24" : value;
}

function coloured(value, key) {
  if (typeof value === "string") return /color$/.test(key) ? colour(value) : value;
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((each) => coloured(each, key)) : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, name)]));
}

function drawPlots() {
  const font = getComputedStyle(document.body).fontFamily;
  const touch = matchMedia("(pointer: coarse)").matches;
  for (const plot of document.querySelectorAll(".plot")) {
    const { data, layout } = coloured(page.figures[plot.dataset.figure], "");
    const narrow = plot.clientWidth < 500;
    layout.font = { ...layout.font, family: font, size: 12 };
    layout.hoverlabel.font = { ...layout.hoverlabel.font, family: font, size: narrow ? 10 : 12 };
    layout.dragmode = touch ? false : "zoom";
    if (narrow) {
      // one curve's numbers at a time: those of all have no room
      layout.hovermode = "closest";
      layout.margin = { ...layout.margin, l: 44, r: 6 };
    }
    data.forEach((trace, number) => {
      if (narrow && trace.hovertemplate) {
        const heading = layout.xaxis.unifiedhovertitle.text;
        trace.hovertemplate = `%{fullData.name}<br>${heading}<br>%{text}<extra></extra>`;
      }
      const drawn = plot.data && plot.data[number]; // what a reader switched stays switched
      if (drawn && drawn.visible !== undefined) trace.visible = drawn.visible;
    });
    Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true });
  }
}

drawPlots();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlots);
matchMedia("print").addEventListener("change", drawPlots);

/* Paper shows what a click would; opened before its pages are counted. */
const closed = [];
window.addEventListener("beforeprint", () => {
  closed.push(...document.querySelectorAll("details:not([open])"));
  for (const details of closed) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of closed.splice(0)) details.open = false;
});

/* Tables: a click on a column's title sorts by it, numbers by value; empty cells come last. */

function cellValue(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replaceAll(",", ""));
  return text === "" ? null : Number.isNaN(number) || column === 0 ? text : number;
}

function compareCells(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title.textContent;
    title.replaceChildren(button);
    button.addEventListener("click", () => {
      const falls = title.ariaSort ? title.ariaSort === "ascending" : title.classList.contains("numeric");
      titles.forEach((each) => each.removeAttribute("aria-sort"));
      title.ariaSort = falls ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, column), row]);
      rows.sort(([one], [other]) => {
        if (one === null || other === null) return (one === null) - (other === null);
        return falls ? compareCells(other, one) : compareCells(one, other);
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

/* Classes at a chosen radius: all views stand in the page, one is shown. */

const classes = document.querySelector("#classes form");
if (classes) {
  classes.addEventListener("change", () => {
    for (const view of document.querySelectorAll(".class-view")) {
      view.hidden = view.dataset.run !== classes.run.value || view.dataset.radius !== classes.radius.value;
    }
  });
}

/* The gallery. All text is set as text: names come from files. */

const IMAGES_AT_ONCE = 12;
const MOST_BARS = 5;
const NOISY_COPIES = 3;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function className(run, label) {
  return run.classes[label] === undefined ? String(label) : run.classes[label];
}

/* A number as text, rounded down: a page must not promise more than was proved. */
function down(value, digits) {
  const scale = 10 ** digits;
  const below = Math.floor(value * scale); // 0.29 * 100 is below 29, which is tried as well
  return ((below + 1) / scale <= value ? (below + 1) / scale : below / scale).toFixed(digits);
}

function verdict(run, place) {
  if (run.predict[place] === -1) return "abstained";
  return run.predict[place] === run.label[place] ? "right" : "wrong";
}

/* Mulberry32 and Box-Muller: reproducible Gaussian noise. */
function gaussian(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/* A picture with noise of standard deviation sigma, in [0, 1] pixel units, added; one value where the image is grey. */
function drawNoisy(canvas, picture, channels, sigma, seed) {
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const draw = gaussian(seed);
  for (let place = 0; place < pixels.data.length; place += 4) {
    const grey = draw();
    for (let channel = 0; channel < 3; channel += 1) {
      const noise = channels === 1 || channel === 0 ? grey : draw();
      pixels.data[place + channel] += Math.round(255 * sigma * noise); // the array cuts off at 0 and 255
    }
  }
  context.putImageData(pixels, 0, 0);
}

function views(run, index, set, uri) {
  const row = element("div", set.shape[1] > 96 ? "views large" : "views");
  const clean = element("img");
  clean.alt = `image ${index}`;
  clean.title = "clean";
  row.append(clean);
  for (let copy = 1; copy <= NOISY_COPIES && run.sigma !== null; copy += 1) {
    const canvas = element("canvas");
    canvas.title = `with noise, σ = ${run.sigma}`;
    row.append(canvas);
    clean.addEventListener("load", () => drawNoisy(canvas, clean, set.shape[0], run.sigma, index * NOISY_COPIES + copy));
  }
  clean.src = uri;
  const shown = element("figure", "shown");
  const under = run.sigma === null ? "clean" : `clean, and with noise of σ = ${run.sigma}`;
  shown.append(row, element("figcaption", "", under));
  return shown;
}

function bar(list, run, label, place, share, text) {
  const track = element("div", `bar ${label === run.label[place] ? "right" : label === run.predict[place] ? "wrong" : ""}`);
  const fill = element("span");
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  const name = element("dt", "", className(run, label));
  name.title = className(run, label);
  list.append(name, track, element("dd", "", text));
}

function votes(run, place) {
  const list = element("dl", "votes");
  const counted = run.votes[run.idx[place]];
  if (counted) {
    const falling = [...counted].sort((one, other) => other[1] - one[1]);
    for (const [label, count] of falling.slice(0, MOST_BARS)) {
      bar(list, run, label, place, count / run.samples, `${count} of ${run.samples}`);
    }
  } else if (run.bound && run.predict[place] !== -1) {
    const share = `${run.kind === "soft" ? "mean score " : ""}at least ${down(100 * run.bound[place], 1)} %`;
    bar(list, run, run.predict[place], place, run.bound[place], share);
  }
  return list;
}

function ballInWords(run, place, set) {
  const radius = run.radius[place];
  if (run.predict[place] === -1) return "The samples prove no class: no prediction and no radius.";
  const answer = className(run, run.predict[place]);
  const wrongly = verdict(run, place) === "wrong" ? `, though the label is “${className(run, run.label[place])}”` : "";
  const ball = run.sound ? "Every 8-bit image" : "In exact arithmetic, every image";
  let text = `${ball} at an L2 distance of less than ${down(radius, 3)} is classified as “${answer}”${wrongly}.`;
  const values = set.shape ? set.shape[0] * set.shape[1] * set.shape[2] : Infinity;
  const inside = 255 * radius * (1 - 1e-9); // the ball does not hold its edge
  const level = down(inside / Math.sqrt(values), 1);
  if (Number(level) > 0) {
    const single = radius > 1 ? "one from black to white" : `one by ${down(inside, 1)}`;
    text += ` The ball holds, for example, all ${values.toLocaleString("en")} values changed by ${level} of 255 grey levels, or ${single}.`;
  }
  return text;
}

function imageCard(run, place) {
  const set = page.sets[run.set];
  const index = run.idx[place];
  const card = element("article", "image");
  const kind = verdict(run, place);
  const heading = element("h3", "", `image ${index}, class ${className(run, run.label[place])}`);
  const told = { right: "✓", wrong: "✗", abstained: "∅" }[kind];
  const radius = kind === "abstained" ? "abstained" : `${kind}, radius ${down(run.radius[place], 3)}`;
  heading.append(element("span", `verdict ${kind}`, `${told} ${radius}`));
  const uri = set.pictures[index];
  card.append(heading, uri ? views(run, index, set, uri) : element("p", "missing", "no picture in this page"));
  card.append(votes(run, place), element("p", "ball", ballInWords(run, place, set)));
  return card;
}

function chosenPlaces(form) {
  const run = page.runs[form.run.value];
  const set = page.sets[run.set];
  const index = form.index.value.trim();
  const places = [...run.idx.keys()].filter((place) => {
    if (index !== "") return String(run.idx[place]) === index;
    if (form.pictured && form.pictured.checked && !(run.idx[place] in set.pictures)) return false;
    if (form.verdict.value !== "all" && verdict(run, place) !== form.verdict.value) return false;
    return form.label.value === "" || String(run.label[place]) === form.label.value;
  });
  const robust = (place) => (run.predict[place] === -1 ? -1 : run.radius[place]);
  if (form.order.value === "falling") places.sort((one, other) => robust(other) - robust(one));
  if (form.order.value === "rising") places.sort((one, other) => robust(one) - robust(other));
  return places;
}

const gallery = document.querySelector("#gallery form");
if (gallery) {
  const list = document.getElementById("gallery-images");
  const more = document.getElementById("gallery-more");
  const said = document.getElementById("gallery-count");
  let left = [];

  const showMore = () => {
    const run = page.runs[gallery.run.value];
    list.append(...left.splice(0, IMAGES_AT_ONCE).map((place) => imageCard(run, place)));
    more.hidden = left.length === 0;
  };
  const show = () => {
    const run = page.runs[gallery.run.value];
    left = chosenPlaces(gallery);
    said.textContent = `${left.length.toLocaleString("en")} of ${run.idx.length.toLocaleString("en")} certified images`;
    list.replaceChildren();
    showMore();
  };
  const showLabels = () => {
    const run = page.runs[gallery.run.value];
    const chosen = gallery.label.value;
    const labels = [...new Set(run.label)].sort((one, other) => one - other);
    const options = labels.map((label) => new Option(className(run, label), label, false, String(label) === chosen));
    gallery.label.replaceChildren(new Option("all", ""), ...options);
  };

  gallery.addEventListener("input", show);
  gallery.run.addEventListener("change", showLabels);
  gallery.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  showLabels();
  show();
}
