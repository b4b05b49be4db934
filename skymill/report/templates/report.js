"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  // Every text goes through textContent: header text never becomes markup.
  const make = (tag, css, text) => {
    const node = document.createElement(tag);
    if (css) node.className = css;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const get = (name, i) => D[name].v ? D[name].v[D[name].i[i]] : D[name][i];
  const WORDS = {o: "ok", d: "degraded", r: "rejected", f: "failed", b: "blocked", "-": "off"};
  const figure = (key, i) => {
    const value = D.metrics[key] ? D.metrics[key][i] : null;
    if (value === null || value === undefined) return "";
    return value.toFixed(D.names[key][2]).replace("-", "−");
  };

  // --- table of frames ---
  const count = D.id.length, size = 50;
  const head = $("#table thead tr"), body = $("#table tbody");
  if (head) {
    const metrics = ["fwhm", "sky", D.metrics.zp ? "zp" : "throughput"].filter(k => D.metrics[k]);
    const columns = [
      ["Frame", i => D.id[i], "id"], ["UTC", i => D.time[i].slice(0, 16)], ["Kind", i => get("kind", i)],
      ["Target", i => get("target", i)], ["Filter", i => get("filter", i)],
      ["Exp. (s)", i => D.exp[i], "n"], ["Fate", i => get("fate", i)], ["Way", i => get("way", i)],
      ...metrics.map(k => [D.names[k][0] + (D.names[k][1] ? " (" + D.names[k][1] + ")" : ""), i => D.metrics[k][i], "n", k]),
      ["Reason", i => get("code", i), "why"],
    ];
    let sort = null, down = false, page = 0, order = [...Array(count).keys()], open = null;
    const wanted = {fate: new Set(), kind: new Set()};
    const texts = order.map(i => [D.id[i], D.path[i], get("object", i), get("target", i), get("filter", i),
      get("night", i), get("code", i), get("step", i), get("message", i)].join(" ").toLowerCase());

    columns.forEach((column, c) => {
      const th = make("th", column[2] || "");
      th.scope = "col";
      const button = make("button", "", column[0]);
      button.type = "button";
      button.onclick = () => { down = sort === c ? !down : false; sort = c; page = 0; update(); };
      th.append(button); head.append(th);
    });

    const chips = (id, name, word) => {
      const tally = new Map();
      for (let i = 0; i < count; i++) tally.set(get(name, i), (tally.get(get(name, i)) || 0) + 1);
      const values = name === "fate" ? Object.keys(D.fates).filter(v => tally.has(v)) : [...tally.keys()];
      if (values.length < 2) return;
      for (const value of values) {
        const button = make("button", name === "fate" ? "s-" + value : "", word(value) + " " + tally.get(value));
        button.type = "button"; button.setAttribute("aria-pressed", "false");
        button.onclick = () => {
          const on = wanted[name].has(value);
          wanted[name][on ? "delete" : "add"](value);
          button.setAttribute("aria-pressed", String(!on));
          page = 0; update();
        };
        $(id).append(button);
      }
    };
    chips("#by-fate", "fate", v => D.fates[v]);
    chips("#by-kind", "kind", v => v);

    const compare = (a, b) => {
      const x = columns[sort][1](a), y = columns[sort][1](b);
      const none = v => v === null || v === undefined || v === "";
      if (none(x) || none(y)) return none(x) - none(y) || a - b;
      const sign = x < y ? -1 : x > y ? 1 : 0;
      return (down ? -sign : sign) || a - b;
    };
    function update() {
      const words = $("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
      order = [];
      for (let i = 0; i < count; i++) {
        if (wanted.fate.size && !wanted.fate.has(get("fate", i))) continue;
        if (wanted.kind.size && !wanted.kind.has(get("kind", i))) continue;
        if (words.every(w => texts[i].includes(w))) order.push(i);
      }
      if (sort !== null) order.sort(compare);
      $$("th", head).forEach((th, c) => c === sort
        ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort"));
      draw();
    }
    const strip = way => {
      const node = make("span", "way");
      node.title = [...way].map((s, k) => s === " " ? "" : D.steps[k] + ": " + WORDS[s]).filter(Boolean).join("\n");
      [...way].forEach(s => { if (s !== " ") node.append(make("i", "s-" + WORDS[s])); });
      return node;
    };
    function draw() {
      const pages = Math.max(1, Math.ceil(order.length / size));
      page = Math.min(page, pages - 1);
      body.replaceChildren();
      for (const i of order.slice(page * size, (page + 1) * size)) {
        const tr = make("tr");
        tr.dataset.i = i;
        columns.forEach((column, c) => {
          const td = make("td", column[2] || "");
          const value = column[1](i);
          if (c === 0) {
            const button = make("button", "", value);
            button.type = "button"; button.title = D.path[i]; button.setAttribute("aria-expanded", "false");
            td.append(button);
          } else if (column[0] === "Fate") td.append(make("span", "chip s-" + value, D.fates[value]));
          else if (column[0] === "Way") td.append(strip(value));
          else if (column[3]) td.textContent = figure(column[3], i);
          else if (column[0] === "Reason") {
            if (value) {
              const text = make("div", "clamp");  // the whole sentence is in the opened row
              text.append(make("b", "", value.replaceAll(";", ", ")), " " + get("message", i));
              td.append(text);
            }
            td.title = get("message", i);
          } else if (value !== null) td.textContent = value;
          tr.append(td);
        });
        body.append(tr);
        if (open === i) body.append(detail(i, tr));
      }
      if (!order.length) {
        const td = make("td", "", "No frame fits.");
        td.colSpan = columns.length;
        const tr = make("tr"); tr.append(td); body.append(tr);
      }
      const first = order.length ? page * size + 1 : 0;
      $("#where").textContent = `${first}–${Math.min((page + 1) * size, order.length)} of ${order.length} frames`;
      $("#prev").disabled = page === 0;
      $("#next").disabled = page >= pages - 1;
    }
    function detail(i, row) {
      row.classList.add("open");
      const button = $("button", row);
      if (button) button.setAttribute("aria-expanded", "true");
      const td = make("td"), tr = make("tr", "detail");
      td.colSpan = columns.length;
      td.append(make("b", "", D.path[i]));
      const message = get("message", i);
      if (message) td.append(make("p", "", message));
      const advice = get("code", i).split(";").map(c => D.advice[c]).filter(Boolean)[0] || D.advice[get("code", i)];
      if (advice) { const p = make("p", "todo"); p.append(make("b", "", "What to do"), advice); td.append(p); }
      const steps = make("div", "steps");
      [...get("way", i)].forEach((s, k) => { if (s !== " ") steps.append(make("span", "chip s-" + WORDS[s], D.steps[k])); });
      td.append(steps);
      const dl = make("dl");
      const add = (name, value) => {
        if (!value) return;
        const div = make("div"); div.append(make("dt", "", name), make("dd", "", value)); dl.append(div);
      };
      add("object", get("object", i)); add("night", get("night", i)); add("fixed on the way in", get("fixes", i));
      for (const key of Object.keys(D.metrics)) {
        const value = figure(key, i);
        if (value) add(D.names[key][0], value + " " + D.names[key][1]);
      }
      td.append(dl); tr.append(td);
      return tr;
    }
    body.onclick = event => {
      const row = event.target.closest("tr");
      if (!row || row.dataset.i === undefined || String(getSelection())) return;
      const i = Number(row.dataset.i);
      open = open === i ? null : i;
      draw();
      const again = $(`tr[data-i="${i}"] button`, body);
      if (again) again.focus({preventScroll: true});
    };
    $("#find").oninput = () => { page = 0; update(); };
    $(".tools").onsubmit = event => event.preventDefault();
    $("#prev").onclick = () => { page--; draw(); };
    $("#next").onclick = () => { page++; draw(); };
    $("#csv").onclick = () => {
      const names = ["id", "path", "time", "kind", "target", "filter", "night", "exp", "fate", "step", "code", "message"];
      const keys = Object.keys(D.metrics);
      const cell = v => {
        let text = v === null || v === undefined ? "" : String(v);
        if (typeof v === "string" && /^[=+\-@\t]/.test(text)) text = "'" + text; // no formulas from headers
        return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
      };
      const lines = [[...names, ...keys].join(",")];
      for (const i of order) lines.push([...names.map(n => cell(get(n, i))), ...keys.map(k => cell(D.metrics[k][i]))].join(","));
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
      link.download = "frames.csv"; link.click();
      URL.revokeObjectURL(link.href);
    };
    window.jump = i => {
      wanted.fate.clear(); wanted.kind.clear(); $("#find").value = "";
      $$("[aria-pressed]").forEach(b => b.setAttribute("aria-pressed", "false"));
      sort = null; open = i; update();
      page = Math.floor(order.indexOf(i) / size); draw();
      const row = $(`tr[data-i="${i}"]`, body);
      row.scrollIntoView({block: "center"}); row.classList.add("flash");
      $("button", row).focus({preventScroll: true});
    };
    const number = new Map(D.id.map((id, i) => [id, i]));
    $$("[data-jump]").forEach(a => { a.onclick = event => { event.preventDefault(); jump(number.get(a.dataset.jump)); }; });
    update();
    const asked = decodeURIComponent((location.hash.match(/^#frame=(.*)$/) || [])[1] || "");
    if (number.has(asked)) jump(number.get(asked));
  }

  // --- plots: the nearest point under the pointer, marked in every plot ---
  const tip = $("#tip"), NS = "http://www.w3.org/2000/svg";
  const plots = $$("svg.plot").map(svg => {
    const points = [];
    for (const path of $$("path[data-i]", svg)) {
      const where = path.getAttribute("d").match(/M[-\d.]+ [-\d.]+h[\d.]+/g) || [];
      const index = path.dataset.i.split(" ");
      where.forEach((text, k) => {
        const [, x, y, w] = text.match(/M([-\d.]+) ([-\d.]+)h([\d.]+)/).map(Number);
        points.push({x: x + w / 2, y, w, i: Number(index[k])});
      });
    }
    return {svg, points, at: new Map(points.map(p => [p.i, p])), set: svg.dataset.set, metric: svg.dataset.metric};
  }).filter(plot => plot.points.length);
  const clear = () => { tip.hidden = true; $$(".mark").forEach(node => node.remove()); };
  const mark = (plot, p) => {
    const ring = document.createElementNS(NS, "ellipse");
    ring.setAttribute("class", "mark");
    ring.setAttribute("cx", p.x); ring.setAttribute("cy", p.y);
    ring.setAttribute("rx", 6 + p.w / 2); ring.setAttribute("ry", p.w ? 9 : 6);
    plot.svg.append(ring);
  };
  const describe = (plot, i) => {
    if (plot.set) return D.sets[plot.set][i];
    const lines = [D.id[i], [D.time[i], get("target", i), get("filter", i)].filter(Boolean).join(" · ")];
    if (plot.metric && figure(plot.metric, i)) lines.push(D.names[plot.metric][0] + " " + figure(plot.metric, i) + " " + D.names[plot.metric][1]);
    lines.push(D.fates[get("fate", i)] + (get("code", i) ? ": " + get("code", i).replaceAll(";", ", ") : ""));
    return lines.join("\n");
  };
  for (const plot of plots) {
    const nearest = event => {
      const box = plot.svg.getBoundingClientRect(), view = plot.svg.viewBox.baseVal;
      const scale = view.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = (18 * scale) ** 2;
      for (const p of plot.points) {
        const dx = Math.max(Math.abs(p.x - x) - p.w / 2, 0), d = dx * dx + (p.y - y) ** 2;
        if (d < least) { least = d; best = p; }
      }
      return best;
    };
    plot.svg.onpointermove = event => {
      clear();
      const p = nearest(event);
      plot.svg.style.cursor = p && !plot.set ? "pointer" : "";
      if (!p) return;
      if (plot.set) mark(plot, p);
      else for (const other of plots) if (!other.set && other.at.has(p.i)) mark(other, other.at.get(p.i));
      tip.textContent = describe(plot, p.i);
      tip.hidden = false;
      tip.style.left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = (event.clientY + 24 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 14 : event.clientY + 18) + "px";
    };
    plot.svg.onpointerleave = clear;
    if (!plot.set) plot.svg.onclick = event => { const p = nearest(event); if (p && window.jump) { clear(); jump(p.i); } };
  }

  // --- pictures, more light curves, the bar ---
  const zoom = $("#zoom");
  $$("img[data-zoom]").forEach(img => { img.onclick = () => {
    $("img", zoom).src = img.src; $("img", zoom).alt = img.alt; $("p", zoom).textContent = img.alt; zoom.showModal();
  }; });
  zoom.onclick = () => zoom.close();
  $$(".show-more").forEach(button => { button.onclick = () => { button.previousElementSibling.classList.add("all"); button.remove(); }; });
  const links = new Map($$(".bar a").map(a => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    links.forEach(a => a.classList.remove("on"));
    if (links.has(entry.target.id)) links.get(entry.target.id).classList.add("on");
  }), {rootMargin: "-20% 0px -70% 0px"});
  $$("section").forEach(section => seen.observe(section));
})();
