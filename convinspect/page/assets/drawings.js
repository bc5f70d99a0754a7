// Pictures of numbers: heatmaps on a canvas, histograms and norms as SVG.

/** A colour of the palette as [red, green, blue]. */
function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

function between(a, b, part) {
  return a.map((value, i) => Math.round(value + (b[i] - value) * part));
}

/** Colours of the codes 0 to 255 of a picture: 0 is what is not finite. */
function ramp(exact) {
  const colours = [colour("strange")];
  if (exact) {
    const steps = [];
    for (let step = -16; step <= 16; step += 1) steps.push(colour(`cell-${Math.abs(step)}${step < 0 ? "n" : ""}`));
    for (let code = 1; code < 256; code += 1) {
      const at = ((code - 1) / 254) * 32;
      const low = Math.min(31, Math.floor(at));
      colours.push(between(steps[low], steps[low + 1], at - low));
    }
    return colours;
  }
  const stops = [colour("cell-0"), colour("name"), colour("ink")];
  for (let code = 1; code < 256; code += 1) {
    const at = ((code - 1) / 254) * 2;
    const low = Math.min(1, Math.floor(at));
    colours.push(between(stops[low], stops[low + 1], at - low));
  }
  return colours;
}

/** What a picture is made of, by name. */
function readPicture(data) {
  const [rows, columns, high, wide, out, across, taps, exact, least, top, coded] = data;
  return { rows, columns, high, wide, out, across, taps, exact: Boolean(exact), least, top, codes: bytes(coded) };
}

/** The value of a cell, as text. */
function cellValue(picture, row, column) {
  const code = picture.codes[row * picture.columns + column];
  if (code === 0) return "not finite";
  const value = picture.exact ? ((code - 128) / 127) * picture.top
    : picture.least + ((code - 1) / 254) * (picture.top - picture.least);
  return figure(Number(value.toPrecision(3)));
}

/** "out 3", "in 4–7": what a cell stands for. */
function span(at, each, size, name) {
  const last = Math.min((at + 1) * each, size) - 1;
  return `${name} ${count(at * each)}${last > at * each ? `–${count(last)}` : ""}`;
}

const WIDEST = 420; // Pixels of a heatmap.
const HIGHEST = 300;

/** A heatmap with its legend. */
function heatmap(data, names) {
  const picture = readPicture(data);
  const canvas = make("canvas", {
    width: picture.columns, height: picture.rows, class: "heat", role: "img", tabindex: "0",
    "aria-label": `Heatmap of ${count(picture.out)} × ${count(picture.across)} numbers, largest ${figure(picture.top)}; arrow keys read its cells`,
  });
  const cell = Math.min(22, WIDEST / picture.columns, HIGHEST / picture.rows);
  canvas.style.width = `min(100%, ${Math.round(Math.max(cell * picture.columns, Math.min(22 * picture.columns, 200)))}px)`;
  canvas.style.height = `${Math.round(Math.max(cell * picture.rows, 22))}px`;
  const under = make("p", { class: "under", "aria-hidden": "true" });
  const usual = picture.exact
    ? "each cell is a number"
    : `each cell: root mean square of up to ${count(picture.high)} × ${count(picture.wide)} numbers`;
  under.textContent = usual;
  const cursor = make("span", { class: "cell", hidden: true, "aria-hidden": "true" });
  const tell = (row, column) => {
    const where = [];
    if (picture.out > 1 || names.length > 1) where.push(span(row, picture.high, picture.out, names[0]));
    where.push(span(column, picture.wide, picture.across, names[names.length - 1]));
    under.textContent = `${where.join(", ")}: ${cellValue(picture, row, column)}`;
  };
  const rest = () => {
    under.textContent = usual;
    cursor.hidden = true;
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    tell(within(((event.clientY - box.top) / box.height) * picture.rows, picture.rows),
      within(((event.clientX - box.left) / box.width) * picture.columns, picture.columns));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", rest);
  canvas.addEventListener("blur", rest);
  let at = [0, 0];
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    // The first key shows where the cell is.
    if (!cursor.hidden) at = [within(at[0] + move[0], picture.rows), within(at[1] + move[1], picture.columns)];
    tell(...at);
    announce(under.textContent);
    const [wide, high] = [canvas.clientWidth / picture.columns, canvas.clientHeight / picture.rows];
    put(cursor, [at[1] * wide + 1, at[0] * high + 1, wide + 1, high + 1]);
    cursor.hidden = false;
  });
  const scale = make("canvas", { width: 255, height: 1, class: "scale", "aria-hidden": "true" });
  paintNow(canvas, () => {
    const colours = ramp(picture.exact);
    fill(canvas, picture.codes, colours);
    fill(scale, Uint8Array.from({ length: 255 }, (_, i) => i + 1), colours);
  });
  const legend = make("p", { class: "legend" },
    make("span", { text: figure(picture.least) }), scale,
    make("span", { text: figure(picture.top) }));
  return make("div", { class: "heatmap" }, canvas, cursor, legend, under);
}

/** A place of `size` ones that is not beyond either end. */
function within(at, size) {
  return Math.max(0, Math.min(size - 1, Math.floor(at)));
}

function fill(canvas, codes, colours) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < codes.length; i += 1) image.data.set([...colours[codes[i]], 255], 4 * i);
  context.putImageData(image, 0, 0);
}

/** The heights of a histogram's bars, of 1: they go with the square root of the count. */
function heights(counts) {
  const most = Math.max(...counts, 1);
  return counts.map((number) => Math.sqrt(number / most));
}

/** A histogram of one line's height, for a row of a table. */
function sparkline(counts) {
  const bars = heights(counts).map((height, i) => (height ? `M${i * 4} 16v${-Math.max(16 * height, 1).toFixed(1)}h3V16z` : ""));
  return draw("svg", { class: "spark", viewBox: `0 0 ${counts.length * 4 - 1} 16`, "aria-hidden": "true" },
    draw("path", { d: bars.join("") }));
}

/** A histogram with its range. */
function histogram(counts, low, high) {
  const width = 320;
  const step = width / counts.length;
  const bars = heights(counts).map((height, i) => draw("rect",
    { x: i * step + 0.5, y: 88 - height * 84, width: step - 1, height: Math.max(height * 84, counts[i] ? 1 : 0), rx: 1 },
    draw("title", { text: `${plural(counts[i], "number")}` })));
  const base = draw("line", { x1: 0, x2: width, y1: 88.5, y2: 88.5, class: "base" });
  const marks = [];
  if (low < 0 && high > 0) {
    const zero = (width * -low) / (high - low);
    marks.push(draw("line", { x1: zero, x2: zero, y1: 0, y2: 88, class: "zero" }));
  }
  const label = `Histogram from ${figure(low)} to ${figure(high)}`;
  const chart = draw("svg", { class: "chart bars", viewBox: `0 0 ${width} 90`, role: "img", "aria-label": label },
    ...marks, ...bars, base);
  return make("figure", {}, chart, make("p", { class: "range" },
    make("span", { text: figure(low) }), make("span", { class: "quiet", text: "heights: √count" }),
    make("span", { text: figure(high) })));
}

/** Norms of the output channels, from left to right. */
function norms(data) {
  const [top, least, channels, each, highs, lows] = data;
  const width = 320;
  const high = bytes(highs);
  const low = each > 1 ? bytes(lows) : null;
  const step = width / high.length;
  const bars = [...high].flatMap((value, i) => {
    const upper = (value / 255) * 84;
    const lower = low ? (low[i] / 255) * 84 : 0;
    const box = { x: i * step, width: Math.max(step - (step > 3 ? 1 : 0), 0.6) };
    if (value === 0) return [draw("rect", { ...box, y: 84, height: 4, class: "dead" })];
    const range = draw("rect", { ...box, y: 88 - upper, height: Math.max(upper - lower, 1) });
    return low ? [draw("rect", { ...box, y: 88 - lower, height: lower, class: "below" }), range] : [range];
  });
  const base = draw("line", { x1: 0, x2: width, y1: 88.5, y2: 88.5, class: "base" });
  const label = `Norms of ${plural(channels, "output channel")}, from ${figure(least)} to ${figure(top)}`;
  const chart = draw("svg", { class: "chart norms", viewBox: `0 0 ${width} 90`, role: "img", "aria-label": label },
    ...bars, base);
  const said = each > 1 ? `least to most of each ${each}` : "one bar a channel";
  return make("figure", {}, chart, make("p", { class: "range" },
    make("span", { text: "0" }), make("span", { class: "quiet", text: `${said} · ${figure(least)} … ${figure(top)}` }),
    make("span", { text: count(channels - 1) })));
}
