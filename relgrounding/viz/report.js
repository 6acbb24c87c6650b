"use strict";
// Everything that comes from the data is set with textContent, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [ID, ITEM, TEXT, TARGETS, ANSWERS] = [0, 1, 2, 3, 4];
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  let page = 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const shape = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const lanes = (row) => [
    ["truth", row[TARGETS]],
    ...row[ANSWERS].map((answer, k) => [`c${k % 5}`, [answer[1][0].slice(0, -1)]]),
  ];

  function moments(row) {
    const drawn = lanes(row);
    const ends = row[ANSWERS].flatMap((a) => a[1].map((t) => t[1])).concat(row[TARGETS].map((t) => t[1]));
    const scale = 280 / Math.max(...ends, 1e-9);
    const svg = shape("svg", { width: 280, height: 12 * drawn.length });
    drawn.forEach(([name, proposals], k) =>
      proposals.forEach(([start, end]) => svg.append(shape("rect", {
        class: name, x: start * scale, y: 12 * k + 2, width: Math.max(1, (end - start) * scale), height: 8,
      }))));
    return svg;
  }

  function boxes(row) {
    const all = row[TARGETS].concat(row[ANSWERS].flatMap((a) => a[1].map((t) => t.slice(0, 4))));
    const wide = Math.max(...all.map((b) => b[2])), tall = Math.max(...all.map((b) => b[3]));
    const scale = Math.min(150 / wide, 110 / tall);
    const svg = shape("svg", { width: wide * scale + 4, height: tall * scale + 4 });
    for (const [name, proposals] of lanes(row).reverse())
      for (const [x1, y1, x2, y2] of proposals) svg.append(shape("rect", {
        class: `frame ${name}`, x: x1 * scale + 2, y: y1 * scale + 2,
        width: (x2 - x1) * scale, height: (y2 - y1) * scale,
      }));
    return svg;
  }

  const orders = [["as in the data set", null]];
  data.runs.forEach((run, k) => orders.push(
    [`IoU of ${run}, lowest first`, (a, b) => a[ANSWERS][k][0] - b[ANSWERS][k][0]],
    [`IoU of ${run}, highest first`, (a, b) => b[ANSWERS][k][0] - a[ANSWERS][k][0]],
  ));
  if (data.runs.length > 1) {
    const gain = (row) => row[ANSWERS][data.runs.length - 1][0] - row[ANSWERS][0][0];
    orders.push([`most improved by ${data.runs.at(-1)}`, (a, b) => gain(b) - gain(a)]);
  }

  function found() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.groups[byId("group").value].filter((row) => {
      const text = `${row[TEXT]} ${row[ID]} ${row[ITEM]}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const order = orders[byId("sort").selectedIndex][1];
    return order ? rows.sort(order) : rows;
  }

  function place(proposal) {
    return proposal.map((v) => (data.video ? v.toFixed(1) : Math.round(v))).join(data.video ? " to " : ", ");
  }

  function line(row) {
    const tr = element("tr");
    const text = element("td", undefined, "text");
    text.append(element("div", row[TEXT]), element("small", `${row[ID]}, ${row[ITEM]}`));
    const picture = element("td", undefined, "draw");
    picture.append(data.video ? moments(row) : boxes(row));
    tr.append(text, picture, element("td", row[TARGETS].map(place).join("; ")));
    for (const [iou, top] of row[ANSWERS]) {
      const cell = element("td", iou.toFixed(2));
      cell.title = top.map((t, k) => `${k + 1}: ${place(t.slice(0, -1))}, score ${t.at(-1).toFixed(3)}`).join("\n");
      tr.append(cell, element("td", place(top[0].slice(0, -1))));
    }
    return tr;
  }

  function show() {
    const rows = found();
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("count").textContent = `${rows.length} queries`;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("back").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
    byId("rows").tBodies[0].replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map(line));
  }

  for (const name of Object.keys(data.groups)) byId("group").append(element("option", name));
  byId("group").value = data.start;
  for (const [name] of orders) byId("sort").append(element("option", name));
  byId("sort").selectedIndex = 1;
  const head = element("tr");
  const unit = data.video ? "seconds" : "x1, y1, x2, y2";
  head.append(element("th", "query"), element("th", ""), element("th", `truth (${unit})`));
  for (const run of data.runs) head.append(element("th", `${run}: IoU`), element("th", "first answer"));
  byId("rows").tHead.append(head);
  const restart = () => { page = 0; show(); };
  for (const id of ["search", "group", "sort"]) byId(id).addEventListener("input", restart);
  byId("back").addEventListener("click", () => { page -= 1; show(); });
  byId("next").addEventListener("click", () => { page += 1; show(); });
  show();
})();
