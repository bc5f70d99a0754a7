// How numbers are written, and read from the page's data.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** 1,234,567 */
function count(number) {
  return number.toLocaleString("en-US");
}

/** "3 layers" */
function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** Bytes in decimal units. */
function size(nbytes) {
  let value = nbytes;
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(unit === 0 || Math.abs(value) >= 99.95 ? 0 : 1)} ${UNITS[unit]}`;
}

/** 12.3 M */
function brief(number) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= 0.9995 * unit) {
      const value = number / unit;
      return `${value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)} ${name}`;
    }
  }
  return String(number);
}

/** "12 %", "< 0.1 %" */
function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  if (share && share < 0.1) return "< 0.1 %";
  return `${share >= 9.95 || share === 0 ? share.toFixed(0) : share.toFixed(1)} %`;
}

/** Four significant digits, as short as they go. */
function figure(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

/** Bytes of base64. */
function bytes(text) {
  const binary = atob(text);
  const found = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) found[i] = binary.charCodeAt(i);
  return found;
}

/** Names, of which each was written without what it shares with the one before. */
function decodeNames(coded) {
  const names = [];
  let before = "";
  for (let i = 0; i < coded.length; i += 2) {
    before = before.slice(0, coded[i]) + coded[i + 1];
    names.push(before);
  }
  return names;
}

/** Compares names as people do: numbers in them as numbers. */
const byName = new Intl.Collator("en", { numeric: true }).compare;
