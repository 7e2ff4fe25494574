// What the parts of the page share: its data, elements made without HTML, numbers, heat.
"use strict";

var report = { data: JSON.parse(document.getElementById("data").textContent) };

/** An element with attributes and children; text is always text, never HTML. */
report.element = function (tag, attributes, ...children) {
  const svg = ["svg", "path", "line", "rect", "text"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
};

/** A score with four digits; a patch score, which is a float16, has three. */
report.number = (value, places = 4) => {
  const digits = value.toPrecision(places);
  return digits.includes("e") ? String(Number(digits)) : digits;
};

/** A p-value; a small one is not rounded to 0. */
report.pValue = (value) => (value < 0.001 ? "p < 0.001" : "p = " + value.toFixed(3));

/** Hands a text to the person as a file. */
report.download = function (name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = report.element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};

/** Numbers of base64 text that holds little-endian float16. */
report.halves = function (text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 2 }, (_, at) => {
    const bits = view.getUint16(2 * at, true);
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const sign = bits >> 15 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
};

/** The heat scale of some maps of a category: its own, or that of these maps alone, from their median to their highest. */
report.scale = function (category, maps, own) {
  if (!own) return category.heat;
  const all = Float32Array.from(maps.flatMap((one) => [...one])).sort();
  return [all[Math.floor(all.length / 2)], all[all.length - 1]];
};

/** Where a patch score lies on a heat scale: 0 = no heat, 1 = full. */
report.strength = function ([low, high], score) {
  return Math.min(1, Math.max(0, (score - low) / Math.max(high - low, 1e-12)));
};

/** A canvas of one pixel a patch; the more heat, the less of the picture shows through. */
report.heat = function (category, scores, scale) {
  const [height, width] = category.grid;
  const canvas = report.element("canvas", { class: "heat", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  scores.forEach((score, at) => {
    const strength = report.strength(scale, score);
    const colour = parseInt(report.data.colours[Math.round(255 * strength)].slice(1), 16);
    image.data.set([colour >> 16, (colour >> 8) & 255, colour & 255, Math.round(191 * strength)], 4 * at);
  });
  context.putImageData(image, 0, 0);
  return canvas;
};

/** A heat scale: a strip of colours with its numbers. own: it is that of one sample. */
report.legend = function (category, scale, own) {
  const canvas = report.element("canvas", { width: 256, height: 1, role: "img", "aria-label": "colours of the heat map" });
  const context = canvas.getContext("2d");
  report.data.colours.forEach((colour, at) => {
    context.globalAlpha = (0.75 * at) / 255;
    context.fillStyle = colour;
    context.fillRect(at, 0, 1, 1);
  });
  const [low, high] = scale;
  const words = own ? "Heat: from the median to the highest of this sample, a scale of its own."
    : `Heat: 90 % to 99.9 % quantile of ${category.heat_of}, one scale for all of ${category.name}.`;
  return report.element(
    "p", { class: "legend" },
    "Patch score ",
    report.element("span", { class: "figure" }, report.number(low)),
    canvas,
    report.element("span", { class: "figure" }, report.number(high)),
    report.element("span", { class: "quiet" }, words + (category.threshold === null ? "" : " Mark on a bar: the threshold of samples.")
      + (Object.keys(category.ignored).length ? " Grey: ignored, it never counts." : "")),
  );
};
