// The data of a checkpoint, read when it is asked for.

const POINTWISE = 1, PATCH = 2, LISTED = 4;

/** One layer: the columns at once, all else when its row is opened. */
class Layer {
  constructor(place, name, row, model) {
    this.place = place;
    this.name = name;
    this.row = row;
    this.model = model;
    [this.params, this.nbytes] = [row[3], row[4]];
    this.lower = name.toLowerCase();
  }
  text(at) { return this.model.texts[at]; }
  get kind() { return this.text(this.row[0]); }
  get shape() { return this.text(this.row[1]); }
  get dtype() { return this.text(this.row[2]); }
  get pointwise() { return Boolean(this.row[5] & POINTWISE); }
  get patch() { return Boolean(this.row[5] & PATCH); }
  get listed() { return Boolean(this.row[5] & LISTED); }
  get tags() { return this.text(this.row[6]); }
  get dead() { return this.numbers && this.numbers.dead ? this.numbers.dead[0] : 0; }
  get std() { return this.numbers ? this.numbers.std : null; }
  notes() { return this.row[7].map((at) => this.text(at)); }
  facts() { return this.row[8].map(([key, value]) => [this.text(key), this.text(value)]); }
  reason() { return this.row[10] < 0 ? "" : this.text(this.row[10]); }
  /** [what it becomes, the command], … */
  ways() {
    const name = this.row[11] || this.name;
    return this.row[9].map((at) => {
      const [what, head, tail] = this.model.ways[at];
      return [what, head + name + tail];
    });
  }
  /** Its numbers by name; a text where they cannot be read; null where they were not. */
  get numbers() {
    if (this.known === undefined) this.known = readNumbers(this.model.numbers[this.place], this.model.texts);
    return this.known;
  }
}

function readNumbers(data, texts) {
  if (data === null || data === undefined) return null;
  if (typeof data === "number") return texts[data];
  const [min, max, mean, std, l2, numel, zeros, nan, inf, counts, norms, dead, picture, notes] = data;
  return {
    min, max, mean, std, l2, numel, zeros, nan, inf, histogram: counts, norms, dead, picture,
    notes: notes.map((at) => texts[at]),
  };
}

/** The data with its layers. */
function readModel(data) {
  const model = { ...data };
  model.layers = decodeNames(data.names).map((name, place) => new Layer(place, name, data.rows[place], model));
  return model;
}

/** The file's name and what it is. */
function modelHeader(model, level, letter = "") {
  const parts = [model.format, model.root ? `root ${model.root}` : "", `${size(model.totals.disk_nbytes)} on disk`];
  return make("header", { class: "model" },
    make(level, {}, letter ? make("span", { class: "letter", text: letter }) : null, model.file),
    model.path === model.file ? null : make("p", { class: "quiet path", text: model.path }),
    make("p", { text: parts.filter(Boolean).join(" · ") }),
    totalTiles(model), ...callouts(model));
}

function tile(label, value, more = "", kind = "") {
  return make("div", { class: "tile" }, make("dt", { text: label }),
    make("dd", {}, make("span", { class: `value ${kind}`, text: value }),
      more ? make("span", { class: "extra", text: more }) : null));
}

function totalTiles(model) {
  const totals = model.totals;
  const tiles = make("dl", { class: "tiles" });
  const what = model.role === "optimizer" ? "Numbers" : "Parameters";
  tiles.append(tile(what, brief(totals.parameters), totals.parameters >= 1000 ? count(totals.parameters) : ""));
  tiles.append(tile("In tensors", size(totals.tensor_nbytes), plural(totals.tensors, "tensor")));
  tiles.append(tile("Conv and linear", count(totals.layers), `of ${plural(totals.modules, "module")}`));
  tiles.append(tile("Pointwise", count(totals.pointwise), totals.patch ? `${count(totals.patch)} over patches` : "",
    totals.pointwise ? "good" : ""));
  const whole = model.dtypes.reduce((sum, [, nbytes]) => sum + nbytes, 0);
  const [first, ...others] = model.dtypes;
  const named = others.slice(0, 3).map(([dtype, nbytes]) => `${dtype} ${percent(nbytes, whole)}`);
  const rest = [...named, ...(others.length > 3 ? ["…"] : [])].join(", ");
  if (first) tiles.append(tile("Dtype", first[0], others.length ? `${percent(first[1], whole)}; ${rest}` : ""));
  if (totals.read) {
    const where = totals.dead ? `in ${plural(totals.dead_layers, "layer")}` : "no row is all zeros";
    tiles.append(tile("Dead channels", count(totals.dead), where, totals.dead ? "warn" : ""));
    const strange = totals.nan + totals.inf;
    if (strange) tiles.append(tile("Not finite", count(strange), `${count(totals.nan)} NaN, ${count(totals.inf)} Inf`, "bad"));
  }
  return tiles;
}

function callouts(model) {
  const parts = model.problems.map((text) => make("p", { class: "callout bad", text }));
  if (model.refused) parts.push(make("p", { class: "callout", text: `Not converted: ${model.refused}` }));
  if (model.together.length) {
    parts.push(make("div", { class: "together" },
      ...model.together.map((each) => command(each.command, each.what))));
  }
  return parts;
}

function notesOf(model) {
  if (!model.notes.length) return null;
  return make("section", { class: "notes" }, make("h2", { text: "Notes" }),
    make("ul", {}, ...model.notes.map((text) => make("li", { text }))));
}
