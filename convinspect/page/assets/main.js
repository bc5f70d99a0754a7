// The page: of one checkpoint, or of two and how they differ.

/** How many characters the longest of some texts has. */
function longest(rows, text) {
  return rows.reduce((most, row) => Math.max(most, text(row).length), 0);
}

function largest(rows, number) {
  return rows.reduce((most, row) => Math.max(most, number(row) || 0), 0);
}

function columnsOf(model) {
  const layers = model.layers;
  const whole = model.totals.parameters || model.layers.reduce((sum, layer) => sum + layer.params, 0);
  const columns = [
    { key: "name", title: "name", sort: (layer) => layer.name, under: (layer) => `${layer.kind} ${unbroken(layer.shape)}`,
      cell: (layer) => nameCell(layer.name, `${layer.kind} ${unbroken(layer.shape)}`) },
    { key: "kind", title: "kind", wide: Math.min(longest(layers, (layer) => layer.kind), 20),
      sort: (layer) => layer.kind, cell: (layer) => layer.kind },
    { key: "shape", title: "weight", wide: Math.min(longest(layers, (layer) => layer.shape), 22),
      sort: (layer) => layer.params, cell: (layer) => layer.shape },
    // Where all are of one type, the header says which.
    { key: "dtype", title: "dtype", wide: longest(layers, (layer) => layer.dtype),
      drop: new Set(layers.map((layer) => layer.dtype)).size > 1 ? 2 : 0,
      sort: (layer) => layer.dtype, cell: (layer) => layer.dtype },
    { key: "params", title: model.role === "optimizer" ? "numbers" : "params", number: true,
      wide: count(largest(layers, (layer) => layer.params)).length,
      sort: (layer) => layer.params, cell: (layer) => count(layer.params) },
    { key: "share", title: "share", number: true, wide: 13, drop: 4, sort: (layer) => layer.params, cell: (layer) => shareCell(layer.params, whole) },
    { key: "size", title: "size", number: true, wide: 7, drop: 5, sort: (layer) => layer.nbytes, cell: (layer) => size(layer.nbytes) },
  ];
  if (model.values) {
    columns.push(
      { key: "std", title: "std", number: true, wide: longest(layers, stdOf), drop: 3, sort: (layer) => layer.std ?? null, cell: stdOf },
      { key: "spread", title: "values", wide: 8, drop: 1, cell: (layer) => (layer.numbers && layer.numbers.histogram && layer.numbers.histogram.length ? sparkline(layer.numbers.histogram) : "") });
  }
  columns.push({ key: "tags", title: "notes", wide: Math.min(largest(layers, tagsWidth), 25),
    sort: (layer) => layer.tags || null, cell: tagsCell });
  return columns;
}

function stdOf(layer) {
  return layer.std === null || layer.std === undefined ? "" : figure(layer.std);
}

/** A shape that a line does not end in. */
function unbroken(shape) {
  return shape.replaceAll(" ", "\u00a0");
}

/** A name, of which the beginning is left out where there is no room: names differ most at their ends. */
function nameCell(name, under) {
  // The cell is laid out from the right, so that it is the left that is cut; its text is not.
  const text = make("bdi", { dir: "ltr" }, ...name.split(/(?<=\.)/).flatMap((part) => [make("wbr"), part]));
  return make("span", { class: "namebox" }, make("span", { class: "twist", "aria-hidden": "true" }),
    make("span", { class: "names" }, make("span", { class: "nametext", title: name }, text),
      make("span", { class: "under", text: under })));
}

function shareCell(part, whole) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--part", `${whole ? (100 * part) / whole : 0}%`);
  return make("span", { class: "sharebox" }, bar, make("span", { text: percent(part, whole) }));
}

/** What is noted of a layer: [text, tone], … */
function tagsOf(layer) {
  const tags = layer.tags.split(", ").filter(Boolean)
    .map((tag) => [tag, tag === "pointwise" || tag === "patch" ? "good" : ""]);
  if (typeof layer.numbers === "string") tags.push(["not read", "warn"]);
  const numbers = layer.numbers;
  if (layer.dead) tags.push([`${count(layer.dead)} dead`, "warn"]);
  if (numbers && (numbers.nan || numbers.inf)) tags.push([numbers.nan ? "NaN" : "Inf", "bad"]);
  return tags;
}

/** In characters, with the frames around them. */
function tagsWidth(layer) {
  return Math.ceil(tagsOf(layer).reduce((sum, [text]) => sum + text.length + 2.4, 0));
}

function tagsCell(layer) {
  const tags = tagsOf(layer);
  return make("span", { class: "tags", title: tags.map(([text]) => text).join(", ") },
    ...tags.map(([text, tone]) => make("span", { class: `tag ${tone}`, text })));
}

/** The tools above a table: search, kinds, and boxes to check; they call back with a filter. */
class Tools {
  constructor(kinds, boxes, name, changed) {
    this.changed = changed;
    this.search = make("input", { type: "search", placeholder: "filter: name, kind, shape", "aria-label": "Filter the rows",
      autocomplete: "off", spellcheck: "false", oninput: () => this.change() });
    this.kind = make("select", { "aria-label": name, onchange: () => this.change() },
      make("option", { value: "", text: `any ${name}` }),
      ...kinds.map(([kind, number]) => make("option", { value: kind, text: `${kind} (${count(number)})` })));
    this.boxes = boxes.map((box) => {
      const input = make("input", { type: "checkbox", onchange: () => this.change() });
      input.checked = Boolean(box.checked);
      return { ...box, input, element: make("label", { class: "check" }, input, box.title) };
    });
    this.said = make("span", { class: "quiet shown", role: "status" });
    this.element = make("div", { class: "tools", role: "search" }, this.search, kinds.length > 1 ? this.kind : null,
      ...this.boxes.map((box) => box.element), this.said);
  }

  change() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = this.kind.value;
    const tests = this.boxes.map((box) => (box.input.checked ? box.on : box.off)).filter(Boolean);
    this.changed((row) => (!kind || row.kind === kind) && tests.every((test) => test(row)) &&
      words.every((word) => row.lower.includes(word) || row.kind.toLowerCase().includes(word) || row.shape.includes(word)));
  }

  /** Shows every row again. */
  clear() {
    this.search.value = "";
    this.kind.value = "";
    for (const box of this.boxes) box.input.checked = Boolean(box.off);
    this.change();
  }
}

function kindsOf(rows) {
  const found = new Map();
  for (const row of rows) found.set(row.kind, (found.get(row.kind) || 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]);
}

function layersTable(model) {
  const listed = model.layers.some((layer) => layer.listed);
  const boxes = [];
  if (listed && model.layers.some((layer) => !layer.listed)) {
    boxes.push({ title: "all modules", off: (layer) => layer.listed });
  }
  if (model.totals.pointwise) boxes.push({ title: "pointwise", on: (layer) => layer.pointwise });
  if (model.totals.patch) boxes.push({ title: "patch", on: (layer) => layer.patch });
  if (model.totals.dead) boxes.push({ title: "dead channels", on: (layer) => layer.dead > 0 });
  const table = new Table(columnsOf(model), model.layers, {
    label: "Layers", detail: (layer) => layerDetail(layer, model),
  });
  const tools = new Tools(kindsOf(model.layers), boxes, "kind", (accepts) => {
    const number = table.filter(accepts);
    tools.said.textContent = `${count(number)} of ${plural(model.layers.length, "module")}`;
  });
  return { table, tools };
}

function goTo(table, tools, row) {
  if (!table.go(row)) {
    tools.clear();
    table.go(row);
  }
}

function showOne(page, model) {
  const { table, tools } = layersTable(model);
  const map = new Treemap(model.tree, (row) => goTo(table, tools, model.layers[row]));
  page.append(modelHeader(model, "h1"),
    map.isTree ? make("section", {}, make("h2", { text: "Where the parameters are" }), map.element) : "",
    make("section", {}, make("h2", { text: "Layers" }), tools.element, table.box));
  const notes = notesOf(model);
  if (notes) page.append(notes);
  if (map.isTree) map.show();
  tools.change();
}

/** Of a difference what narrow screens have room for: both shapes where they differ, else what differs. */
function shapesOf(row) {
  return row.a && row.b && row.a !== row.b ? `${unbroken(row.a)} · ${unbroken(row.b)}` : `${row.kind}: ${row.a || row.b || "–"}`;
}

/** One row of the differences. */
class Difference {
  constructor(data, texts, models) {
    const [kind, name, a, b, figures, note, places] = data;
    this.kind = texts[kind];
    this.name = name;
    this.lower = name.toLowerCase();
    [this.a, this.b] = [a, b].map((at) => (at < 0 ? "" : texts[at]));
    this.shape = `${this.a} ${this.b}`;
    [this.most, this.relative, this.differing] = figures || [null, null, null];
    this.note = texts[note];
    this.sides = places.map((place, i) => (place < 0 ? null : models[i].layers[place] || null));
  }
  get same() { return this.kind === "same"; }
}

function showTwo(page, models, diff) {
  const rows = diff.rows.map((row) => new Difference(row, diff.texts, models));
  const columns = [
    { key: "name", title: "name", sort: (row) => row.name, under: shapesOf,
      cell: (row) => nameCell(row.name, shapesOf(row)) },
    { key: "difference", title: "difference", wide: longest(rows, (row) => row.kind) + 2, sort: (row) => row.kind,
      cell: (row) => make("span", { class: `tag ${diff.styles[row.kind] || ""}`, text: row.kind }) },
    { key: "sidea", title: "A", wide: Math.min(longest(rows, (row) => row.a), 22), cell: (row) => row.a || "–" },
    { key: "sideb", title: "B", wide: Math.min(longest(rows, (row) => row.b), 22), cell: (row) => row.b || "–" },
  ];
  if (diff.compared) {
    columns.push({ key: "most", title: "max |A−B|", number: true, wide: 9, sort: (row) => row.most, cell: (row) => (row.most === null ? "" : figure(row.most)) },
      { key: "relative", title: "relative", number: true, wide: 9, drop: 1, sort: (row) => row.relative, cell: (row) => (row.relative === null ? "" : figure(row.relative)) });
  }
  columns.push({ key: "note", title: "notes", wide: Math.min(longest(rows, (row) => row.note), 26), drop: 2,
    sort: (row) => row.note || null, cell: (row) => row.note });
  const table = new Table(columns, rows, { label: "Differences", detail: (row) => differenceDetail(row, models) });
  const differ = rows.some((row) => !row.same);
  const boxes = differ && rows.some((row) => row.same) ? [{ title: "what is the same too", off: (row) => !row.same }] : [];
  const tools = new Tools(kindsOf(rows), boxes, "difference", (accepts) => {
    const number = table.filter(accepts);
    tools.said.textContent = `${count(number)} of ${plural(rows.length, "tensor")}`;
  });
  const maps = models.map((model) => new Treemap(model.tree, (place) => {
    const row = rows.find((each) => each.sides.includes(model.layers[place]));
    if (row) goTo(table, tools, row);
  }));
  page.append(
    make("h1", { text: `${models[0].file} and ${models[1].file}` }),
    verdictPart(diff),
    make("div", { class: "pair" }, ...models.map((model, i) => modelHeader(model, "h2", "AB"[i]))),
    make("section", {}, make("h2", { text: "Differences" }), tools.element, table.box),
    make("section", {}, make("h2", { text: "Where the parameters are" }),
      make("div", { class: "pair" }, ...maps.map((map) => map.element))));
  for (const [model, letter] of [[models[0], "A"], [models[1], "B"]]) {
    const notes = notesOf(model);
    if (notes) {
      notes.querySelector("h2").textContent = `Notes on ${letter}`;
      page.append(notes);
    }
  }
  maps.forEach((map) => map.show());
  tools.change();
}

function verdictPart(diff) {
  return make("section", { class: "verdict" }, make("p", { class: `callout ${diff.tone}` }, make("strong", { text: diff.verdict }), diff.more),
    make("p", { class: "quiet", text: diff.counts }), ...diff.prefixes.map((text) => make("p", { class: "warn", text })),
    ...diff.commands.map((text) => command(text)), ...diff.pytorch.map((text) => command(text)),
    ...diff.notes.map((text) => make("p", { class: "note", text })));
}

function differenceDetail(row, models) {
  const sides = row.sides.map((layer, i) => make("div", { class: "side" },
    make("h3", {}, make("span", { class: "letter", text: "AB"[i] }), layer ? layer.name : "not here"),
    layer ? layerDetail(layer, models[i], true) : make("p", { class: "quiet", text: "this side has no such layer" })));
  const figures = row.most === null ? null : facts([
    ["max |A−B|", figure(row.most)], ["relative", figure(row.relative)], ["numbers that differ", count(row.differing || 0)],
  ]);
  const note = row.note ? make("p", { class: "note", text: row.note }) : null;
  return make("div", {}, note, figures, make("div", { class: "pair sides" }, ...sides));
}

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
page.replaceChildren();
page.after(make("p", { id: "said", class: "hidden", role: "status", "aria-live": "polite" }));
const models = data.models.map(readModel);
if (models.length === 1) showOne(page, models[0]);
else showTwo(page, models, data.diff);
page.append(make("footer", { class: "quiet", text: data.made }));
document.documentElement.dataset.ready = "true";
