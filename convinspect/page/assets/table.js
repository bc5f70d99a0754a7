// A table of any number of rows, of which only those in view are in the page. Rows open to show more.

const AROUND = 12; // Rows that are kept ready above and below the view.
const MOST_PRINTED = 3000;
const NAME_LETTERS = 34; // Of a name, before other columns go.
const MOST_LINES = 4; // Of a name, in a narrow window.
const MOST_UNDER = 2; // Lines of what stands below it there.

/** How many lines of so many letters a name fills, which breaks behind dots, and elsewhere where it must. */
function linesOf(name, letters) {
  let lines = 1;
  let here = 0;
  for (const { length } of name.split(/(?<=\.)/)) {
    if (here && here + length > letters) { lines += 1; here = 0; }
    lines += Math.max(0, Math.ceil((here + length) / letters) - 1);
    here = (here + length - 1) % letters + 1;
  }
  return lines;
}

/**
 * columns: [{ key, title, number, cell(row) → text or element, sort(row), wide, drop }]: `wide` in characters, but for
 * the name, which has all that is left; those with the least `drop` go first where that is too little for names.
 * options: { label, detail(row) → element }
 */
class Table {
  constructor(columns, rows, options) {
    Object.assign(this, { columns, every: rows, options });
    this.shown = rows;
    this.opened = new Map(); // row → its second <tr>
    this.made = new Map(); // row → its <tr>
    this.heights = new Map(); // row → pixels of its second <tr>
    this.active = 0;
    this.order = null;
    this.build();
    const later = () => { if (!this.waiting) this.waiting = requestAnimationFrame(() => this.fill()); };
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", () => { this.rowHeight = 0; later(); });
    addEventListener("beforeprint", () => { this.all = true; this.fill(); });
    addEventListener("afterprint", () => { this.all = false; this.fill(); });
    this.watch = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const row = entry.target.row;
        if (entry.target.isConnected) this.heights.set(row, entry.target.offsetHeight);
      }
      later();
    });
  }

  build() {
    const head = make("tr", { "aria-rowindex": 1 });
    this.titles = this.columns.map((column) => {
      const button = make("button", { type: "button", text: column.title, onclick: () => this.sortBy(column.key) });
      const cell = make("th", { scope: "col", class: `c-${column.key}${column.number ? " number" : ""}` },
        column.sort ? button : column.title);
      // Two more for the arrow of the column that is sorted by.
      if (column.wide !== undefined) {
        cell.classList.add("fit");
        cell.style.setProperty("--wide", Math.max(column.wide, column.title.length + (column.sort ? 2 : 0)));
      }
      head.append(cell);
      return cell;
    });
    this.body = make("tbody", { onkeydown: (event) => this.key(event), onclick: (event) => this.click(event) });
    this.above = make("tr", { class: "space", "aria-hidden": "true" }, make("td", { colspan: this.columns.length }));
    this.below = make("tr", { class: "space", "aria-hidden": "true" }, make("td", { colspan: this.columns.length }));
    this.body.append(this.above, this.below);
    this.element = make("table", { role: "treegrid", class: "grid", "aria-label": this.options.label },
      make("thead", {}, head), this.body);
    this.empty = make("p", { class: "empty", text: "Nothing fits the filter.", hidden: true });
    this.letters = Math.min(longest(this.every, (row) => row.name), NAME_LETTERS);
    this.wanted = make("span", { class: "wanted", "aria-hidden": "true" });
    this.wanted.style.width = `${this.letters + 5}ch`;
    this.box = make("div", { class: "gridbox" }, this.element, this.empty, this.wanted);
  }

  /** Sorts by a column: up, down, and back to the file's order. */
  sortBy(key) {
    const column = this.columns.find((each) => each.key === key);
    const first = column.number ? "descending" : "ascending";
    const second = column.number ? "ascending" : "descending";
    const before = this.order && this.order.key === key ? this.order.direction : null;
    const direction = before === null ? first : before === first ? second : null;
    this.order = direction ? { key, direction } : null;
    this.arrange();
    announce(direction ? `sorted by ${column.title}, ${direction}` : "in the order of the file");
  }

  /** Shows the rows that a filter accepts. */
  filter(accepts) {
    this.accepts = accepts;
    this.arrange();
    return this.shown.length;
  }

  arrange() {
    const kept = this.accepts ? this.every.filter(this.accepts) : [...this.every];
    if (this.order) {
      const { sort } = this.columns.find((each) => each.key === this.order.key);
      const sign = this.order.direction === "ascending" ? 1 : -1;
      const keyed = kept.map((row) => [sort(row), row]);
      // What has no value comes last, in either direction.
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (typeof a === "string" ? byName(a, b) : a - b);
      });
      this.shown = keyed.map(([, row]) => row);
    } else this.shown = kept;
    this.titles.forEach((cell, i) => {
      const sorted = this.order && this.order.key === this.columns[i].key;
      if (this.columns[i].sort) cell.setAttribute("aria-sort", sorted ? this.order.direction : "none");
    });
    this.places = new Map(this.shown.map((row, at) => [row, at]));
    this.active = 0;
    this.element.setAttribute("aria-rowcount", this.shown.length + 1);
    this.empty.hidden = this.shown.length > 0;
    this.fill();
  }

  /** Puts the rows in view into the page, and takes out the others. */
  fill() {
    this.waiting = 0;
    if (!this.places) return;
    if (!this.rowHeight) this.measure();
    this.span();
    const opened = [...this.opened.keys()].map((row) => [this.places.get(row), row])
      .filter(([at]) => at !== undefined).sort(([a], [b]) => a - b);
    const [from, to] = this.all ? [0, Math.min(this.shown.length, MOST_PRINTED)] : this.inView(opened);
    const wanted = [this.above];
    for (let at = from; at < to; at += 1) {
      const row = this.shown[at];
      wanted.push(this.rowElement(row, at));
      if (this.opened.has(row)) wanted.push(this.opened.get(row));
    }
    wanted.push(this.below);
    const extra = (low, high) => opened.reduce(
      (sum, [at, row]) => sum + (at >= low && at < high ? this.heights.get(row) || 0 : 0), 0);
    const count = this.shown.length;
    this.spacer(this.above, from * this.rowHeight + extra(0, from));
    this.spacer(this.below, this.all ? 0 : (count - to) * this.rowHeight + extra(to, count));
    this.place(wanted);
    this.mark();
  }

  /** Lets what goes across all columns do so for those that this width shows: more would make room for themselves. */
  span() {
    const columns = this.titles.filter((cell) => cell.offsetParent !== null).length || this.columns.length;
    for (const row of [this.above, this.below, ...this.opened.values()]) row.firstChild.colSpan = columns;
  }

  spacer(row, height) {
    row.hidden = height <= 0;
    row.firstChild.style.height = `${height}px`;
  }

  /** The rows in view, and some around them: from which to which. */
  inView(opened) {
    const top = -this.body.getBoundingClientRect().top;
    return [this.rowAt(top, opened, -AROUND), this.rowAt(top + innerHeight, opened, AROUND + 1)];
  }

  rowAt(y, opened, more) {
    let at = 0;
    let begin = 0;
    for (const [place, row] of opened) {
      const reach = begin + (place + 1 - at) * this.rowHeight;
      if (y < reach) break;
      at = place + 1;
      begin = reach + (this.heights.get(row) || 0);
      if (y < begin) return this.bounded(place + more);
    }
    return this.bounded(at + Math.floor((y - begin) / this.rowHeight) + more);
  }

  bounded(at) {
    return Math.max(0, Math.min(this.shown.length, at));
  }

  /** Makes the table's rows these, and moves none that is there already, so that the focus stays. */
  place(wanted) {
    const keep = new Set(wanted);
    const focus = document.activeElement;
    const lost = this.body.contains(focus) && ![...keep].some((row) => row.contains(focus));
    for (const row of [...this.body.children]) if (!keep.has(row)) row.remove();
    let next = this.body.firstChild;
    for (const row of wanted) {
      if (row === next) next = next.nextSibling;
      else this.body.insertBefore(row, next);
    }
    const made = new Map();
    for (const row of wanted) if (row.row && !row.classList.contains("more")) made.set(row.row, row);
    this.made = made;
    if (lost) {
      const at = made.keys().next().value;
      this.active = this.places.get(at) ?? 0;
    }
    if (!this.all) this.setActive(this.active, false);
  }

  /** Leaves out the columns that matter least until names have room. A narrow window has its own style. */
  fit() {
    const places = this.columns.filter((column) => column.drop !== undefined).sort((a, b) => a.drop - b.drop);
    const dropped = [];
    const name = this.titles[0];
    this.element.dataset.drop = "";
    this.span();
    while (places.length && name.offsetWidth < this.wanted.offsetWidth && !matchMedia("(max-width: 760px)").matches) {
      dropped.push(places.shift().key);
      this.element.dataset.drop = dropped.join(" ");
      this.span();
    }
    this.lines();
  }

  /** Has as many lines for names, in each row of a narrow window, as the longest name needs. */
  lines() {
    const letter = this.wanted.offsetWidth / (this.letters + 5);
    const fitting = Math.max(1, Math.floor((this.titles[0].offsetWidth - 34) / letter));
    const needed = this.every.reduce((most, row) => Math.max(most, linesOf(row.name, fitting)), 1);
    this.element.style.setProperty("--lines", Math.min(MOST_LINES, needed));
    const smaller = fitting * 13 / 12 - 1;
    const under = this.every.some((row) => this.columns[0].under(row).length > smaller) ? MOST_UNDER : 1;
    this.element.style.setProperty("--under", under);
  }

  /** Marks names of which not all is in view. */
  mark() {
    for (const element of this.made.values()) {
      const box = element.querySelector(".nametext");
      if (box) box.classList.toggle("cut", box.firstChild.offsetHeight > box.clientHeight + 2);
    }
  }

  measure() {
    this.fit();
    if (!this.shown.length) return;
    const row = this.rowElement(this.shown[0], 0);
    const here = row.isConnected;
    if (!here) this.body.insertBefore(row, this.below);
    this.rowHeight = row.getBoundingClientRect().height || 30;
    if (!here) row.remove();
  }

  rowElement(row, at) {
    let element = this.made.get(row);
    if (!element) {
      element = make("tr", { class: "row", tabindex: "-1", "aria-level": 1, "aria-expanded": String(this.opened.has(row)) },
        ...this.columns.map((column) => make("td", { class: `c-${column.key}${column.number ? " number" : ""}` },
          column.cell(row))));
      element.row = row;
      this.made.set(row, element);
    }
    element.setAttribute("aria-rowindex", at + 2);
    return element;
  }

  /** The one row that the Tab key reaches. */
  setActive(at, focus = true) {
    const count = this.shown.length;
    if (!count) return;
    this.active = Math.max(0, Math.min(count - 1, at));
    const row = this.shown[this.active];
    if (focus) this.reveal(row);
    let stop = this.made.get(row);
    if (!stop && !focus) stop = this.made.values().next().value;
    for (const element of this.made.values()) element.tabIndex = element === stop ? 0 : -1;
    if (focus && stop) stop.focus({ preventScroll: true });
  }

  /** Scrolls until a row is in view, and has it in the page. */
  reveal(row) {
    const element = this.made.get(row);
    const head = this.element.tHead.getBoundingClientRect().height + 8;
    if (element && element.isConnected) {
      const box = element.getBoundingClientRect();
      if (box.top < head) scrollBy(0, box.top - head);
      else if (box.bottom > innerHeight - 8) scrollBy(0, box.bottom - innerHeight + 8);
      if (box.top >= head && box.bottom <= innerHeight) return;
    } else {
      const at = this.places.get(row);
      let y = at * this.rowHeight;
      for (const other of this.opened.keys()) {
        const place = this.places.get(other);
        if (place !== undefined && place < at) y += this.heights.get(other) || 0;
      }
      scrollBy(0, this.body.getBoundingClientRect().top + y - innerHeight / 3);
    }
    this.fill();
  }

  toggle(row, open = !this.opened.has(row)) {
    if (!this.options.detail || open === this.opened.has(row)) return;
    if (open) {
      const more = make("tr", { class: "more", "aria-level": 2 },
        make("td", { colspan: this.columns.length }, this.options.detail(row)));
      more.row = row;
      this.opened.set(row, more);
      this.watch.observe(more);
    } else {
      this.watch.unobserve(this.opened.get(row));
      this.opened.delete(row);
      this.heights.delete(row);
    }
    const element = this.made.get(row);
    if (element) element.setAttribute("aria-expanded", String(open));
    this.fill();
    if (open) this.heights.set(row, this.opened.get(row).offsetHeight);
  }

  /** Opens a row and goes there. */
  go(row) {
    if (!this.places.has(row)) return false;
    this.setActive(this.places.get(row));
    this.toggle(row, true);
    this.setActive(this.places.get(row));
    return true;
  }

  click(event) {
    const element = event.target.closest("tr.row");
    if (!element || getSelection().toString()) return;
    this.setActive(this.places.get(element.row));
    this.toggle(element.row);
  }

  key(event) {
    const element = event.target.closest("tr");
    // Keys of what is inside an opened row are its own, but for Escape.
    if (!event.target.classList.contains("row")) {
      if (event.key === "Escape" && element && element.row) {
        this.toggle(element.row, false);
        this.setActive(this.places.get(element.row));
      }
      return;
    }
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(innerHeight / this.rowHeight) - 3);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const row = element.row;
    if (event.key in moves) this.setActive(this.places.get(row) + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.toggle(row);
    else if (event.key === "ArrowRight") this.toggle(row, true);
    else if (event.key === "ArrowLeft" || event.key === "Escape") this.toggle(row, false);
    else return;
    event.preventDefault();
  }
}
