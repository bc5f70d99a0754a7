// What is shown of one layer when its row is opened.

function section(title, ...children) {
  return make("section", { class: "part" }, make("h4", { text: title }), ...children);
}

function facts(pairs) {
  const list = make("dl", { class: "facts" });
  for (const [key, value] of pairs) list.append(make("dt", { text: key }), make("dd", { text: value }));
  return list;
}

/** All that the page knows of a layer. `plain`: without the commands. */
function layerDetail(layer, model, plain = false) {
  const panel = make("div", { class: "detail" });
  const known = facts([["name", layer.name], ["kind", layer.kind], ...layer.facts()]);
  const notes = layer.notes().map((note) => make("p", { class: "note", text: note }));
  const about = section("Layer", known, ...notes);
  const numbers = numberParts(layer, model);
  panel.append(...(plain ? [...numbers, about] : [about, ...numbers]));
  if (!plain) {
    const ways = wayParts(layer, model);
    if (ways) panel.append(ways);
  }
  return panel;
}

function numberParts(layer, model) {
  const numbers = layer.numbers;
  if (typeof numbers === "string") return [section("Numbers", make("p", { class: "note", text: numbers }))];
  if (!numbers) {
    const why = model.values ? "not in this page, which has room for the largest layers alone" : "they were not read";
    return [section("Numbers", make("p", { class: "quiet", text: why }))];
  }
  const parts = [];
  const rows = numbers.norms ? ["out", "in"] : ["row", "column"];
  if (numbers.picture) {
    const strip = numbers.picture[0] === 1 && numbers.picture[4] === 1;
    const names = strip ? ["number"] : numbers.picture[6] > 1 ? [rows[0], "in · tap"] : rows;
    parts.push(section(strip ? "Numbers" : `Kernel: ${names[0]} ↓ × ${names[names.length - 1]} →`,
      heatmap(numbers.picture, names)));
  }
  const stats = facts([
    ["min", figure(numbers.min)], ["max", figure(numbers.max)], ["mean", figure(numbers.mean)],
    ["std", figure(numbers.std)], ["L2", figure(numbers.l2)],
    ["zeros", `${count(numbers.zeros)} (${percent(numbers.zeros, numbers.numel)})`],
  ]);
  for (const [name, value] of [["NaN", numbers.nan], ["Inf", numbers.inf]]) {
    if (value) stats.append(make("dt", { text: name }), make("dd", { class: "bad", text: count(value) }));
  }
  stats.classList.add("columns");
  const spread = numbers.histogram.length ? histogram(numbers.histogram, numbers.min, numbers.max) : null;
  const notes = numbers.notes.map((note) => make("p", { class: "note", text: note }));
  const charts = make("div", { class: "charts" }, section("Distribution", spread, stats, ...notes));
  if (numbers.norms) charts.append(section("Norm of each output channel", norms(numbers.norms), deadLine(numbers.dead)));
  parts.push(charts);
  return parts;
}

function deadLine(dead) {
  if (!dead) return make("p", { class: "quiet", text: "no dead channels: no row is all zeros" });
  const [number, first] = dead;
  const more = number > first.length ? ", …" : "";
  return make("p", { class: "bad" }, make("strong", { text: `${plural(number, "dead channel")}` }),
    `, whose weights are all zero: ${first.map(count).join(", ")}${more}`);
}

function wayParts(layer, model) {
  const ways = layer.ways();
  const reason = layer.reason();
  if (!ways.length && !reason) return null;
  const part = section(ways.length ? "It could become" : "It stays as it is");
  part.classList.add("ways");
  for (const [what, text] of ways) part.append(command(text, what));
  if (reason) part.append(make("p", { class: "note", text: ways.length ? `not a Linear: ${reason}` : reason }));
  return part;
}
