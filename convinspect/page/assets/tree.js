// Where the parameters are: a treemap of the modules. Rectangles are laid out by Bruls, Huizing & van Wijk,
// "Squarified Treemaps" (2000).

const LEAST = 7; // Pixels of a side below which nothing is drawn inside.
const MOST_RECTANGLES = 1500;

/** A node of the data by name. A module that is nothing but another one is shown as that: "blocks.{0–11}". */
function readNode(data, top = true) {
  const [name, parameters, nbytes, kind, repeats, row, sort, below] = data;
  const children = below.map((child) => readNode(child, false));
  const [only] = children;
  if (!top && children.length === 1 && row < 0) {
    return { ...only, name: `${name}.${only.name}`, repeats: repeats * only.repeats, parameters, nbytes };
  }
  return { name, parameters, nbytes, kind, repeats, row, sort, children };
}

/** Rectangles for numbers, largest first, in a box: [x, y, width, height] each. */
function squarified(values, x, y, width, height) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const scale = (width * height) / total;
  const found = [];
  let at = 0;
  while (at < values.length) {
    const side = Math.min(width, height);
    const strip = [];
    let sum = 0;
    let worst = Infinity;
    for (let next = at; next < values.length; next += 1) {
      const area = values[next] * scale;
      const all = sum + area;
      const most = Math.max(...strip, area);
      const least = Math.min(...strip, area);
      const ratio = Math.max((side * side * most) / (all * all), (all * all) / (side * side * least));
      if (ratio > worst) break;
      worst = ratio;
      strip.push(area);
      sum = all;
    }
    const thick = sum / side;
    let along = 0;
    for (const area of strip) {
      const long = area / thick;
      found.push(width >= height ? [x, y + along, thick, long] : [x + along, y, long, thick]);
      along += long;
    }
    if (width >= height) [x, width] = [x + thick, width - thick];
    else [y, height] = [y + thick, height - thick];
    at += strip.length;
  }
  return found;
}

const SORTS = [
  ["pointwise", "pointwise"], ["patch", "over patches"], ["conv", "other convolutions"], ["linear", "linear"],
  ["embedding", "embeddings"], ["other", "all else"],
];

/** What a node is, or most of it. */
function sortOf(node, weigh) {
  if (node.children.length) {
    if (!node.mostly) {
      const most = node.children.reduce((a, b) => (weigh(b) > weigh(a) ? b : a));
      node.mostly = sortOf(most, weigh);
    }
    return node.mostly;
  }
  if (node.sort === 1) return "pointwise";
  if (node.sort === 2) return "patch";
  if (/conv/i.test(node.kind) && !/^Conv1D/.test(node.kind)) return "conv";
  if (/linear|^Conv1D|attention|dense/i.test(node.kind)) return "linear";
  return /embedding/i.test(node.kind) ? "embedding" : "other";
}

class Treemap {
  /** open(row): goes to a layer's row. */
  constructor(data, open) {
    this.root = readNode(data);
    this.open = open;
    this.path = [this.root];
    this.crumbs = make("nav", { class: "crumbs", "aria-label": "Place in the tree" });
    this.map = make("div", { class: "map", role: "group", "aria-label": "Modules by parameters" });
    this.key = make("p", { class: "key" });
    this.element = make("div", { class: "treemap" }, this.crumbs, this.map, this.key);
    new ResizeObserver(() => {
      if (this.map.clientWidth !== this.width) this.show();
    }).observe(this.map);
  }

  /** Whether there is more to see than one layer. */
  get isTree() {
    const [first, ...more] = this.root.children;
    return more.length > 0 || Boolean(first && first.children.length);
  }

  /** Which figure counts: parameters, or bytes where there are none. */
  weigh(node) {
    return this.root.parameters ? node.parameters : node.nbytes;
  }

  words(node) {
    const amount = this.root.parameters ? `${brief(node.parameters)} parameters` : size(node.nbytes);
    return `${amount}, ${percent(this.weigh(node), this.weigh(this.root))}`;
  }

  show() {
    this.width = this.map.clientWidth;
    const here = this.path[this.path.length - 1];
    this.left = MOST_RECTANGLES;
    this.seen = new Set();
    const inside = this.parts(here).map(([node, box]) => this.button(node, box));
    if (!inside.length) inside.push(make("p", { class: "empty", text: "Nothing here has parameters." }));
    this.map.replaceChildren(...inside);
    this.showCrumbs();
    this.key.replaceChildren(...SORTS.filter(([sort]) => this.seen.has(sort)).map(([sort, text]) =>
      make("span", {}, make("i", { class: `swatch s-${sort}` }), text)));
  }

  parts(node, x = 0, y = 0, width = this.map.clientWidth, height = this.map.clientHeight) {
    const children = node.children.filter((child) => this.weigh(child) > 0)
      .sort((a, b) => this.weigh(b) - this.weigh(a));
    // A model that is a single layer.
    if (!node.children.length && this.weigh(node) > 0) children.push({ ...node, name: node.name || "(root)" });
    if (!children.length) return [];
    const boxes = squarified(children.map((child) => this.weigh(child)), x, y, width, height);
    return children.map((child, i) => [child, boxes[i]]).filter(([, box]) => box[2] > 1 && box[3] > 1);
  }

  button(node, box) {
    const zooms = node.children.length > 0;
    const element = make("button", {
      type: "button", class: "tile-button", "aria-label": `${this.label(node)}: ${this.words(node)}`,
      title: `${this.label(node)}\n${this.words(node)}`,
      onclick: () => (zooms ? this.zoom(node) : node.row >= 0 && this.open(node.row)),
    });
    this.box(element, node, [0, 0, box[2], box[3]], 0);
    put(element, box);
    return element;
  }

  label(node) {
    return `${node.name}${node.repeats > 1 ? ` × ${node.repeats}` : ""}${node.kind ? ` (${node.kind})` : ""}`;
  }

  /** Fills a rectangle: with what lies in it, or with the colour of a layer. */
  box(element, node, [, , width, height], depth) {
    const labelled = width > 34 && height > 17;
    if (labelled) {
      const share = depth === 0 && width > 110 ? percent(this.weigh(node), this.weigh(this.root)) : "";
      element.append(make("span", { class: "label" },
        make("b", { text: node.name + (node.repeats > 1 ? ` ×${node.repeats}` : "") }), share ? make("i", { text: share }) : null));
    }
    const top = labelled ? 17 : 1;
    const room = width > 2 * LEAST && height - top > LEAST && depth < 8 && this.left > 0;
    const parts = room && node.children.length ? this.parts(node, 2, top, width - 4, height - top - 2) : [];
    if (!parts.length) {
      const sort = sortOf(node, (each) => this.weigh(each));
      this.seen.add(sort);
      element.classList.add("leaf", `s-${sort}`);
      return;
    }
    for (const [child, box] of parts) {
      if (this.left <= 0) break;
      this.left -= 1;
      const inner = make("span", { class: "inner", title: `${this.label(child)}\n${this.words(child)}` });
      this.box(inner, child, box, depth + 1);
      put(inner, box);
      element.append(inner);
    }
  }

  zoom(node) {
    this.path.push(node);
    this.show();
    const first = this.map.querySelector("button");
    if (first) first.focus();
    announce(`${this.label(node)}: ${this.words(node)}`);
  }

  showCrumbs() {
    const parts = this.path.map((node, i) => {
      const text = i === 0 ? "all" : node.name;
      if (i === this.path.length - 1) return make("b", { text, "aria-current": "true" });
      return make("button", { type: "button", text, onclick: () => {
        this.path.length = i + 1;
        this.show();
        (this.crumbs.querySelector("button") || this.map.querySelector("button") || this.crumbs).focus();
      } });
    });
    const here = this.path[this.path.length - 1];
    this.crumbs.replaceChildren(...parts.flatMap((part, i) => (i ? [" › ", part] : [part])),
      make("span", { class: "quiet", text: `  ${this.words(here)}` }));
  }
}

function put(element, [x, y, width, height]) {
  Object.assign(element.style, {
    left: `${x}px`, top: `${y}px`, width: `${Math.max(width - 1, 1)}px`, height: `${Math.max(height - 1, 1)}px`,
  });
}
