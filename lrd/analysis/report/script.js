"use strict";
// Sorts and searches tables, and shows the values of curves. The page is complete without it.

const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// Sorting: a button in every column head. Empty cells stay at the end.

const key = (row, column) => row.cells[column].dataset.by ?? row.cells[column].textContent.trim();

const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
};

const sort = (table, heads, column) => {
  const head = heads[column];
  const up = head.getAttribute("aria-sort") !== "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return up ? compare(a, b) : compare(b, a);
  });
  body.append(...rows.map(([, row]) => row));
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
};

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.classList.contains("unsorted")) return;
    const button = made("button", { type: "button" }, ...head.childNodes);
    button.addEventListener("click", () => sort(table, heads, column));
    head.append(button);
  });
}

// Searching: show the rows that contain every word.

for (const input of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const output = input.closest(".filter").querySelector("output");
  input.closest(".filter").hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
    const shown = rows.filter((row) => !row.hidden).length;
    output.value = words.length ? `${shown} of ${rows.length}` : "";
  });
}

// Curves: show the point nearest to the pointer, or the one selected below the figure.

const expand = (x) => {
  if (!Array.isArray(x[0])) return x;
  const [first, last] = x[0];
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
};

const share = (value, [low, high], log) =>
  log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);

const place = ({ box: [x0, y0, x1, y1], xlim, ylim, xlog, ylog }, x, y) => [
  x0 + (x1 - x0) * share(x, xlim, xlog),
  y1 - (y1 - y0) * share(y, ylim, ylog),
];

const points = (axis, curve) => {
  const xs = expand(curve.x);
  return curve.mean.flatMap((mean, i) => {
    if (mean === null) return [];
    const half = curve.half?.[i] ?? null;
    const interval = half === null ? curve.interval?.[i] ?? null : [mean - half, mean + half];
    const at = place(axis, xs[i], mean);
    const n = Array.isArray(curve.n) ? curve.n[i] : curve.n;
    return at.every(Number.isFinite) ? [{ axis, curve, x: xs[i], mean, interval, n, at }] : [];
  });
};

const format = (value, { digits }) =>
  digits === null ? String(Number(value.toPrecision(4))) : value.toFixed(digits);

const words = ({ axis, curve, x, mean, interval, n }, name) => {
  const unit = axis.unit ? ` ${axis.unit}` : "";
  const bounds = interval && interval.map((end) => format(end, axis)).join(" to ");
  return [
    [axis.group, curve.label].filter(Boolean).join(", "),
    `${axis.label} ${format(mean, axis)}${unit}`,
    ...(bounds ? [`95 % interval ${bounds}`] : []),
    `${name} ${x}, n = ${n}`,
  ];
};

const shape = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const interactive = (figure) => {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const [svg, sheet, tip, reader] = [".drawn", ".sheet", ".tip", ".reader"].map((s) => figure.querySelector(s));
  const curves = data.axes.flatMap((axis) => axis.curves.map((curve) => points(axis, curve))).filter((c) => c.length);
  if (!curves.length) return;
  const [select, range, output] = ["select", "input", "output"].map((s) => reader.querySelector(s));
  const [ring, bar] = [shape("circle", { r: 3 }), shape("path", {})];
  const mark = shape("g", { class: "at", visibility: "hidden" });
  mark.append(bar, ring);
  svg.append(mark);

  const hide = () => { tip.hidden = true; mark.setAttribute("visibility", "hidden"); };

  const show = (point) => {
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const [x, y] = point.at;
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    const [, top, , bottom] = point.axis.box;
    const ends = (point.interval ?? []).map((end) => place(point.axis, point.x, end)[1]);
    const [low, high] = ends.map((end) => Math.min(Math.max(Number.isFinite(end) ? end : bottom, top), bottom));
    bar.setAttribute("d", ends.length ? `M${x} ${low}V${high}` : "");
    mark.setAttribute("visibility", "visible");
    const [name, ...lines] = words(point, data.x);
    tip.replaceChildren(made("b", {}, name), ...lines.map((line) => made("span", {}, line)));
    tip.hidden = false;
    const side = x > width / 2 ? { left: "", right: `${100 - (100 * x) / width + 1.5}%` } : { left: `${(100 * x) / width + 1.5}%`, right: "" };
    const up = y > height / 2 ? { top: "", bottom: `${100 - (100 * y) / height}%` } : { top: `${(100 * y) / height}%`, bottom: "" };
    Object.assign(tip.style, side, up);
    output.value = [name, ...lines].join("; ");
    const chosen = curves.findIndex((curve) => curve[0].curve === point.curve && curve[0].axis === point.axis);
    select.value = chosen;
    range.max = curves[chosen].length - 1;
    range.value = curves[chosen].indexOf(point);
    range.setAttribute("aria-valuetext", `${data.x} ${point.x}`);
  };

  const nearest = (event) => {
    const [x, y] = (({ x, y }) => [x, y])(new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()));
    const inside = ({ box: [x0, y0, x1, y1] }) => x >= x0 - 4 && x <= x1 + 4 && y >= y0 - 4 && y <= y1 + 4;
    const away = (point) => Math.hypot(point.at[0] - x, point.at[1] - y);
    const near = curves.filter(([first]) => inside(first.axis)).flat();
    return near.reduce((best, point) => (best === null || away(point) < away(best) ? point : best), null);
  };

  for (const kind of ["pointermove", "pointerdown"]) {
    svg.addEventListener(kind, (event) => {
      const point = nearest(event);
      if (point) show(point); else hide();
    });
  }
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  figure.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  curves.forEach(([{ axis, curve }], i) => {
    const label = [axis.group, axis.label, curve.label].filter(Boolean).join(": ");
    select.append(made("option", { value: i, textContent: label }));
  });
  range.max = curves[0].length - 1;
  const choose = () => { const curve = curves[select.value]; show(curve[Math.min(range.value, curve.length - 1)]); };
  select.addEventListener("change", choose);
  range.addEventListener("input", choose);
  reader.hidden = false;
};

document.querySelectorAll("figure.plot").forEach((figure) => {
  if (figure.querySelector("script")) interactive(figure);
});

// Open what a link leads to, and print verdicts with their numbers.

const reveal = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
};

addEventListener("hashchange", reveal);
reveal();

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll(".claim details:not([open])")];
  opened.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
