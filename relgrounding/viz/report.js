"use strict";
// Everything that comes from the data is set with textContent, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [ID, ITEM, TEXT, TARGETS, ANSWERS, FRAME] = [0, 1, 2, 3, 4, 5];
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  let page = 0;
  let orders = [];

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
  const cell = (name, text) => {
    const made = element("td", text);
    made.dataset.name = name;
    return made;
  };
  const group = () => data.groups[byId("group").selectedIndex];
  const proposals = (query) => query[TARGETS].concat(query[ANSWERS].flatMap((answer) => answer[1]));
  const furthest = (query, index) => Math.max(...proposals(query).map((p) => p[index]), 1e-9);
  const spoke = (query) => query[ANSWERS].flatMap(([, top, found], k) => found.map(
    ([from, weight]) => ({ name: `c${group().runs[k] % 5}`, lane: k + 1, from, weight, to: top[0] })));
  const lanes = (query) => [
    ["truth", query[TARGETS]],
    ...query[ANSWERS].map((answer, k) => [`c${group().runs[k] % 5}`, [answer[1][0].slice(0, -1)]]),
  ];

  // One lane per run over the whole video: percentages follow the width of the page. Neighbours that sent messages to an
  // answer are thin, below it.
  function timeline(query) {
    const [duration] = query[FRAME].length ? query[FRAME] : [furthest(query, 1)];
    const share = (seconds) => `${100 * seconds / duration}%`;
    const drawn = lanes(query);
    const tall = spoke(query).length ? 20 : 12;
    const svg = shape("svg", { class: "timeline", height: tall * drawn.length });
    const bar = (name, [start, end], y, height, more) => svg.append(shape("rect", {
      class: name, x: share(start), y, width: share(Math.max(duration / 250, end - start)), height, ...more,
    }));
    drawn.forEach(([name, moments], k) => moments.forEach((moment) => bar(name, moment, tall * k + 2, 8)));
    spoke(query).forEach(({ name, lane, from, weight }, k) =>
      bar(name, from, tall * lane + 11 + 3 * (k % 3), 2, { opacity: 0.3 + 0.7 * weight }));
    const end = `${duration.toFixed(1)} s`;
    return [svg, query[FRAME].length ? `0 to ${end}` : `0 to ${end}, the length of the video is not recorded`];
  }

  // Boxes in the frame of the whole image, with lines from neighbours to the answers that got their messages.
  function picture(query) {
    const [width, height] = query[FRAME].length ? query[FRAME] : [furthest(query, 2), furthest(query, 3)];
    const scale = Math.min(210 / width, 150 / height);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width: width * scale, height: height * scale });
    for (const [name, boxes] of lanes(query).reverse())
      for (const [x1, y1, x2, y2] of boxes) svg.append(shape("rect", {
        class: `frame ${name}`, x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1),
      }));
    const middle = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];
    for (const { name, from, weight, to } of spoke(query)) {
      const [x1, y1, x2, y2] = from;
      svg.append(shape("rect", { class: `frame near ${name}`, x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));
      const [[cx, cy], [ax, ay]] = [middle(from), middle(to)];
      svg.append(shape("line", { class: `message ${name}`, x1: cx, y1: cy, x2: ax, y2: ay, "stroke-width": 1 + 3 * weight }));
      svg.append(shape("circle", { class: name, cx: ax, cy: ay, r: 3 / scale }));
    }
    const size = `${Math.round(width)} x ${Math.round(height)} px`;
    return [svg, query[FRAME].length ? size : `${size}, the size of the image is not recorded`];
  }

  const kind = {
    moments: { draw: timeline, unit: "seconds", write: (p) => p.map((v) => v.toFixed(1)).join(" to ") },
    regions: { draw: picture, unit: "x1, y1, x2, y2", write: (p) => p.map(Math.round).join(", ") },
  }[data.kind];
  const names = () => group().runs.map((k) => data.runs[k]);
  const headings = () => names().map((name) => `${name}: IoU`);

  function choices() {
    const found = [["as in the data set", null]];
    names().forEach((run, k) => found.push(
      [`IoU of ${run}, lowest first`, (a, b) => a[ANSWERS][k][0] - b[ANSWERS][k][0]],
      [`IoU of ${run}, highest first`, (a, b) => b[ANSWERS][k][0] - a[ANSWERS][k][0]],
    ));
    if (names().length > 1) {
      const gain = (query) => query[ANSWERS].at(-1)[0] - query[ANSWERS][0][0];
      found.push([`most improved by ${names().at(-1)}`, (a, b) => gain(b) - gain(a)]);
    }
    return found;
  }

  function found() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const queries = group().queries.filter((query) => {
      const text = `${query[TEXT]} ${query[ID]} ${query[ITEM]}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const order = orders[byId("sort").selectedIndex][1];
    return order ? queries.sort(order) : queries;
  }

  function line(query) {
    const tr = element("tr");
    const text = element("td", undefined, "whole text");
    text.append(element("div", query[TEXT]), element("small", query[ID] === query[ITEM] ? query[ID] : `${query[ID]}, ${query[ITEM]}`));
    const drawing = element("td", undefined, "whole draw");
    const [svg, caption] = kind.draw(query);
    drawing.append(svg, element("small", caption));
    const truth = cell(`truth (${kind.unit})`, query[TARGETS].map(kind.write).join("; "));
    truth.className = "whole";
    tr.append(text, drawing, truth);
    const titles = headings();
    query[ANSWERS].forEach(([iou, top, found], k) => {
      const scored = cell(titles[k], iou.toFixed(2));
      scored.title = top.map((t, n) => `${n + 1}: ${kind.write(t.slice(0, -1))}, score ${t.at(-1).toFixed(3)}`).join("\n");
      const first = cell("first answer", kind.write(top[0].slice(0, -1)));
      for (const [from, , said] of found) first.append(element("small", `from ${kind.write(from)}: ${said}`, "said"));
      tr.append(scored, first);
    });
    return tr;
  }

  function show() {
    const queries = found();
    const pages = Math.max(1, Math.ceil(queries.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("count").textContent = `${queries.length} queries`;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("back").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
    byId("rows").tBodies[0].replaceChildren(...queries.slice(page * PAGE, (page + 1) * PAGE).map(line));
  }

  function restart() {
    page = 0;
    show();
  }

  function open() {
    const sort = byId("sort");
    orders = choices();
    const chosen = sort.options.length === orders.length ? sort.selectedIndex : 1;
    sort.replaceChildren(...orders.map(([name]) => element("option", name)));
    sort.selectedIndex = chosen;
    const head = element("tr");
    const titles = ["query", "", `truth (${kind.unit})`, ...headings().flatMap((title) => [title, "first answer"])];
    head.append(...titles.map((title) => element("th", title)));
    byId("rows").tHead.replaceChildren(head);
    restart();
  }

  byId("group").append(...data.groups.map(({ name }) => element("option", name)));
  byId("group").addEventListener("input", open);
  for (const id of ["search", "sort"]) byId(id).addEventListener("input", restart);
  byId("back").addEventListener("click", () => { page -= 1; show(); });
  byId("next").addEventListener("click", () => { page += 1; show(); });
  open();
})();
