// Elements are made here, and text gets into them as text alone: nothing of a file is ever read as HTML.

/** An element. `attributes`: `class`, `text`, event handlers as functions (`onclick`), all else as attributes. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAll(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** The same for SVG. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAll(element, attributes);
  element.append(...children);
  return element;
}

function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** Says something to those who do not see it. */
function announce(text) {
  const place = document.getElementById("said");
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

/** A command with a button that copies it. */
/** A command as it is shown: a line may end between its words, and not within an option such as -o. */
function shownCommand(text) {
  const words = text.split(" ").map((word) => (/^--?[a-z-]+$/.test(word) ? make("span", { class: "option", text: word }) : word));
  return make("code", {}, ...words.flatMap((word, at) => (at ? [" ", word] : [word])));
}

function command(text, label = "") {
  const code = shownCommand(text);
  const button = make("button", { type: "button", class: "copy", text: "Copy", "aria-label": `Copy: ${text}` });
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    const copied = await copy(text, code);
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    announce(copied ? "Copied" : "The command is selected: press Ctrl+C");
    setTimeout(() => { button.textContent = "Copy"; }, 1800);
  });
  return make("div", { class: "command" }, label ? make("span", { class: "what", text: label }) : null, code, button);
}

/** Copies a text. Where the browser does not allow it, the text is selected, and the answer is false. */
async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(shown);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    try {
      return document.execCommand("copy");
    } catch {
      return false;
    }
  }
}

/** Calls back when the colour scheme changes, as long as the element is in the page. */
const redrawn = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [element, paint] of redrawn) {
    if (element.isConnected) paint();
    else redrawn.delete(element);
  }
});
function paintNow(element, paint) {
  redrawn.set(element, paint);
  paint();
}
