"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;

  // ---------------------------------------------------------------- dark or light
  const remembered = () => { try { return localStorage.getItem("polytune-theme"); } catch { return null; } };
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => { root.dataset.theme = name; drawCharts(); };
  const dark = () => root.dataset.theme === "dark";
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // ---------------------------------------------------------------- charts
  const settings = (width) => {
    const ink = colour("ink"), soft = colour("soft"), line = colour("line");
    const text = { labelColor: soft, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
    return {
      background: "transparent",
      font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
      view: { stroke: null },
      title: { color: ink, subtitleColor: soft, fontSize: 14, anchor: "start", offset: 10, fontWeight: 600,
               limit: width - 40 },
      axis: { ...text, gridColor: line, domainColor: line, tickColor: line, gridOpacity: 0.8, labelLimit: 130 },
      legend: { ...text, orient: "bottom", columns: width < 460 ? 2 : 4, labelLimit: width < 460 ? Math.max(60, width / 2 - 60) : 170, symbolStrokeWidth: 3 },
      rule: { color: ink },
      range: {
        category: Array.from({ length: 12 }, (_, i) => colour(`p${i}`)),
        heatmap: dark() ? ["#1b2128", "#5ab4f0"] : ["#eef1f4", "#0b5a94"],
        ramp: dark() ? ["#1b2128", "#5ab4f0"] : ["#eef1f4", "#0b5a94"],
      },
    };
  };
  let drawing = 0;
  async function drawCharts() {
    if (!window.vegaEmbed) return;
    const mine = ++drawing;
    for (const place of document.querySelectorAll("[data-chart]")) {
      await new Promise((next) => setTimeout(next));  // the page is shown, and answers, before all are drawn
      if (mine !== drawing) return;
      const spec = report.charts[place.dataset.chart];
      const options = { renderer: "svg", config: settings(place.clientWidth), tooltip: { theme: dark() ? "dark" : "light" },
                        downloadFileName: spec.description,
                        actions: { export: true, source: false, compiled: false, editor: false } };
      try {
        await vegaEmbed(place, spec, options);
        place.dataset.drawn = "yes";
      } catch (error) {
        place.textContent = `this chart cannot be drawn: ${error.message}`;
        place.dataset.drawn = "no";
      }
    }
    root.dataset.charts = "drawn";
  }

  // ---------------------------------------------------------------- small helpers
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const signatureColour = (index) => (index < 0 ? "var(--other)" : index < 10 ? `var(--s${index})` : "var(--other)");
  const STEP = { L: [-1, 0], R: [1, 0], U: [0, -1], D: [0, 1], ".": [0, 0] };
  const cellsOf = ([x, y, moves]) => {
    const cells = [[x, y]];
    for (const move of moves) { x += STEP[move][0]; y += STEP[move][1]; cells.push([x, y]); }
    return cells;
  };
  const choice = (label, options, onchange) => {
    const select = make("select", { "aria-label": label, onchange: () => onchange(Number(select.value)) });
    options.forEach((text, index) => select.append(make("option", { value: index }, text)));
    return select;
  };
  const slider = (label, oninput) => {
    const input = make("input", { type: "range", min: 0, value: 0, "aria-label": label, oninput: () => oninput(Number(input.value)) });
    return input;
  };
  const button = (label, onclick, attributes = {}) => make("button", { type: "button", onclick, ...attributes }, label);
  const number = (value) => (value === null || value === undefined ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(3));

  // ---------------------------------------------------------------- a map with paths
  function mapOf(map) {
    const svg = draw("svg", { class: "map", viewBox: `0 0 ${map.w} ${map.h}`, role: "img" });
    svg.append(draw("image", { href: map.png, width: map.w, height: map.h, preserveAspectRatio: "none" }));
    for (const [name, x, y] of map.places) {
      svg.append(draw("text", { class: "place", x: x + 0.5, y: y + 0.85, "font-size": 1.1, style: "font-size:1.1px" }, name));
    }
    return svg;
  }
  // the part of a path between two turns, aside from the middle of the cells so that paths on one way stay apart
  function drawPath(svg, track, { from = 0, to = Infinity, aside = 0, colour: stroke, faint = false, seed = false }) {
    const cells = cellsOf(track.p), last = Math.min(to - from, cells.length - 1);
    if (last < 0) return;
    const shown = cells.slice(0, last + 1).map(([x, y]) => [x + 0.5 + aside, y + 0.5 + aside]);
    const group = draw("g", { class: faint ? "path faint" : "path" });
    const dashes = track.ok || seed ? {} : { "stroke-dasharray": "0.3 0.18" };
    group.append(draw("polyline", {
      points: shown.map((cell) => cell.join(",")).join(" "), fill: "none", stroke,
      "stroke-width": seed ? 0.16 : track.ok ? 0.13 : 0.09, "stroke-linejoin": "round", "stroke-linecap": "round", ...dashes,
    }));
    const [x, y] = shown[shown.length - 1], ended = last === cells.length - 1;
    if (!ended) group.append(draw("circle", { cx: x, cy: y, r: 0.24, fill: stroke }));
    else if (track.ok) group.append(star(x, y, 0.46, stroke));
    else group.append(cross(x, y, 0.22, stroke));
    svg.append(group);
  }
  const star = (x, y, size, fill) => {
    const points = Array.from({ length: 10 }, (_, i) => {
      const reach = i % 2 ? size * 0.42 : size, angle = (Math.PI * i) / 5 - Math.PI / 2;
      return `${x + reach * Math.cos(angle)},${y + reach * Math.sin(angle)}`;
    });
    return draw("polygon", { points: points.join(" "), fill, stroke: "var(--panel)", "stroke-width": size * 0.14 });
  };
  const cross = (x, y, size, stroke) =>
    draw("path", { d: `M${x - size} ${y - size}L${x + size} ${y + size}M${x - size} ${y + size}L${x + size} ${y - size}`,
                   stroke, "stroke-width": size * 0.55, fill: "none" });
  const tableOf = (caption, head, body) => make("div", { class: "table" }, make("p", { class: "caption" }, caption),
    make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, head), body)));
  const spread = (index, count) => (count > 1 ? -0.34 + (0.68 * index) / (count - 1) : 0);

  // chips of signatures; a press picks one out
  function chips(entries, state, redraw) {
    const box = make("div", { class: "chips", role: "group", "aria-label": "signatures" });
    for (const { index, label } of entries) {
      const chip = button("", () => { state.picked = state.picked === index ? null : index; redraw(); },
                          { class: "chip", "aria-pressed": String(state.picked === index) });
      chip.append(make("i", { class: "dot", style: `background:${signatureColour(index)}` }), label);
      box.append(chip);
    }
    return box;
  }

  // ---------------------------------------------------------------- widget: where they went
  function maps(place, starts) {
    const state = { start: 0, show: "all", picked: null };
    const select = choice("start state", starts.map((s) => `start state ${s.seed}`), (value) => go(value));
    const go = (value) => { state.start = (value + starts.length) % starts.length; state.picked = null; redraw(); };
    const bar = make("div", { class: "bar" }, button("‹", () => go(state.start - 1), { "aria-label": "previous start state" }),
                     select, button("›", () => go(state.start + 1), { "aria-label": "next start state" }));
    const filters = [["all", "all"], ["wins", "successes"], ["losses", "failures"]].map(([key, label]) =>
      button(label, () => { state.show = key; redraw(); }, { "data-show": key }));
    bar.append(...filters);
    const told = make("p", { class: "told" }), body = make("div");
    place.append(bar, told, body);
    function redraw() {
      const own = starts[state.start], panels = make("div", { class: "panels" });
      select.value = state.start;
      for (const filter of filters) filter.setAttribute("aria-pressed", String(filter.dataset.show === state.show));
      told.textContent = own.mission;
      for (const panel of own.panels) {
        const svg = mapOf(own.map);
        panel.tracks.forEach((track, index) => {
          if (state.show === "wins" && !track.ok) return;
          if (state.show === "losses" && track.ok) return;
          drawPath(svg, track, { aside: spread(index, panel.tracks.length), colour: signatureColour(track.s),
                                 faint: state.picked !== null && state.picked !== track.s });
        });
        const shown = panel.tracks.length < panel.n ? `, ${panel.tracks.length} of them drawn` : "";
        const title = make("h3", {}, panel.policy, make("small", {},
          `${panel.ok} of ${panel.n} succeed${shown}; ${counted(panel.wins, "winning signature")}`));
        panels.append(make("div", { class: "panel" }, title, svg));
      }
      const entries = own.signatures.map((label, index) => ({ index, label: `${label} \u00b7 ${own.panels.reduce((sum, panel) => sum + panel.counts[index], 0)}\u00d7` }));
      body.replaceChildren(chips(entries, state, redraw), panels);
    }
    redraw();
  }

  // ---------------------------------------------------------------- widget: trees that are stepped through
  function vines(place, runs) {
    const state = { run: 0, tree: 0, turn: 0, group: null, picked: null, timer: null };
    const whichRun = choice("run", runs.map((run) => run.name), (value) => { state.run = value; openTree(0); });
    const whichTree = choice("update", [], (value) => openTree(value));
    const turns = slider("turn", (value) => { stop(); state.turn = value; redraw(); });
    const back = button("◀", () => step(-1), { "aria-label": "one turn back", class: "step-back" });
    const on = button("▶", () => step(1), { "aria-label": "one turn on", class: "step-on" });
    const play = button("play", () => (state.timer ? stop() : start()), { class: "play" });
    const groups = make("span", { class: "bar groups" });
    const turnLabel = make("label", { class: "slider" }, "turn ", turns);
    const stepping = make("div", { class: "bar" }, back, play, on, turnLabel, groups);
    const told = make("p", { class: "told", "aria-live": "polite" }), body = make("div", { class: "tree-body" });
    place.append(make("div", { class: "bar" }, whichRun, whichTree), stepping, told, body);
    place.tabIndex = 0;
    place.addEventListener("keydown", (event) => {
      if (event.target.tagName === "SELECT" || event.target.tagName === "INPUT") return;
      if (event.key === "ArrowRight") { step(1); event.preventDefault(); }
      if (event.key === "ArrowLeft") { step(-1); event.preventDefault(); }
    });
    const tree = () => runs[state.run].trees[state.tree];
    const lengthOf = (own) => Math.max(own.seed ? own.seed.turns : 0,
      ...own.groups.map((group) => group.turn + Math.max(0, ...(group.members || []).map((member) => member.turns))));
    function openTree(index) {
      stop();
      const trees = runs[state.run].trees;
      whichRun.value = state.run;
      whichTree.replaceChildren(...trees.map((own, at) => make("option", { value: at },
        `update ${own.update}, ${own.env_steps.toLocaleString("en")} steps, start state ${own.start_state}${own.part && `, ${own.part}`}`)));
      state.tree = index; whichTree.value = index;
      state.group = null; state.picked = null;
      state.turn = lengthOf(tree());
      redraw();
    }
    function step(by) { stop(); state.turn = Math.min(lengthOf(tree()), Math.max(0, state.turn + by)); redraw(); }
    function start() {
      if (state.turn >= lengthOf(tree())) state.turn = 0;
      play.textContent = "pause";
      state.timer = setInterval(() => {
        if (state.turn >= lengthOf(tree())) return stop();
        state.turn += 1; redraw();
      }, 160);
      redraw();
    }
    function stop() { clearInterval(state.timer); state.timer = null; play.textContent = "play"; }

    function redraw() {
      const own = tree();
      if (!own.map) return asText(own);
      const last = lengthOf(own);
      stepping.hidden = false; stepping.style.display = "";
      turns.max = last; turns.value = state.turn;
      groups.replaceChildren();
      if (own.groups.length > 1) {
        const pick = (value) => () => { state.group = value; redraw(); };
        groups.append(button("all states", pick(null), { "aria-pressed": String(state.group === null) }));
        own.groups.forEach((group, index) => groups.append(
          button(`state ${index + 1}`, pick(index), { "aria-pressed": String(state.group === index) })));
      }
      const drawn = own.groups.map((group, index) => ({ group, index })).filter(({ index }) => state.group === null || state.group === index);
      const under = drawn.flatMap(({ group }) => group.members.map((member) => group.turn + member.turns > state.turn && group.turn <= state.turn));
      const started = drawn.flatMap(({ group }) => group.members.filter(() => group.turn <= state.turn)).length;
      const noun = own.seed ? "vine" : "episode";
      told.textContent = `turn ${state.turn} of ${last}: ${counted(started, noun)} begun, `
        + `${under.filter(Boolean).length} under way${own.mission ? `; ${own.mission}` : ""}`;
      const svg = mapOf(own.map);
      if (own.seed) drawPath(svg, own.seed, { to: state.turn, colour: "var(--ink)", seed: true, faint: false });
      for (const { group } of drawn) {
        group.members.forEach((member, at) => {
          if (state.turn >= group.turn) {
            drawPath(svg, member, { from: group.turn, to: state.turn, aside: spread(at, group.members.length),
                                    colour: signatureColour(member.s),
                                    faint: state.picked !== null && state.picked !== member.s });
          }
        });
      }
      if (own.seed) {
        const cells = cellsOf(own.seed.p);
        for (const [turn, name] of marks(drawn)) {
          const [x, y] = cells[Math.min(turn, cells.length - 1)];
          svg.append(draw("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.42, fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 0.08 }),
                     draw("text", { x: x + 0.5, y: y + 0.7, "text-anchor": "middle", style: `font-size:${name.length > 1 ? 0.46 : 0.62}px` }, name));
        }
      }
      const counts = new Map();
      for (const { group } of drawn) for (const member of group.members) counts.set(member.s, (counts.get(member.s) || 0) + 1);
      const entries = own.signatures.map((label, index) => ({ index, label: `${label} \u00b7 ${counts.get(index) || 0}\u00d7` }))
        .filter(({ index }) => counts.get(index));
      const panels = make("div", { class: "panels two" },
        make("div", { class: "panel" }, make("h3", {}, "on the map"), svg),
        make("div", { class: "panel" }, make("h3", {}, own.seed ? "as a tree" : "as a group", make("small", {}, "a line an attempt, from left to right its turns")), treeOf(own, drawn, last)));
      body.replaceChildren(chips(entries, state, redraw), panels, credit(own, drawn));
    }

    // turn -> the numbers of the rollout states there
    function marks(drawn) {
      const named = new Map();
      for (const { group, index } of drawn) named.set(group.turn, [...(named.get(group.turn) || []), index + 1]);
      return [...named].map(([turn, numbers]) => [turn, numbers.join(",")]);
    }

    function treeOf(own, drawn, last) {
      const rows = drawn.reduce((sum, { group }) => sum + group.members.length + 1, own.seed ? 1 : 0);
      const width = 100, rowHeight = Math.max(2.2, Math.min(4, 90 / Math.max(rows, 1)));
      const height = rows * rowHeight + 8, x = (turn) => 4 + (turn / Math.max(last, 1)) * (width - 10);
      const svg = draw("svg", { class: "tree", viewBox: `0 0 ${width} ${height}`, role: "img" });
      svg.append(draw("line", { x1: x(state.turn), x2: x(state.turn), y1: 1, y2: height - 4, stroke: "var(--accent)", "stroke-width": 0.35, class: "cursor" }));
      const tick = Math.max(1, Math.ceil(last / 5 / 5) * 5);
      for (let turn = 0; turn <= last; turn += tick) {
        svg.append(draw("text", { x: x(turn), y: height - 0.8, "text-anchor": "middle", style: "font-size:2.6px;fill:var(--soft)" }, String(turn)));
      }
      let y = rowHeight;
      const end = (track, at, row, stroke) => (track.ok ? star(at, row, rowHeight * 0.42, stroke) : cross(at, row, rowHeight * 0.2, stroke));
      if (own.seed) {
        svg.append(draw("line", { x1: x(0), x2: x(own.seed.turns), y1: y, y2: y, stroke: "var(--ink)", "stroke-width": 0.9 }), end(own.seed, x(own.seed.turns), y, "var(--ink)"));
      }
      const top = y;
      for (const { group } of drawn) {
        y += rowHeight * 0.6;
        for (const member of group.members) {
          y += rowHeight;
          const stroke = signatureColour(member.s), until = Math.min(group.turn + member.turns, Math.max(state.turn, group.turn));
          const row = draw("g", { class: state.picked !== null && state.picked !== member.s ? "faint" : "" });
          const from = own.seed ? `M${x(group.turn)} ${top + 1.2}Q${x(group.turn)} ${y} ${Math.min(x(group.turn) + 2.5, x(last))} ${y}` : `M${x(0)} ${y}`;
          row.append(draw("path", { d: from, fill: "none", stroke, "stroke-width": 0.25, opacity: 0.6 }));
          const begin = own.seed ? Math.min(x(group.turn) + 2.5, x(group.turn + member.turns)) : x(0);
          row.append(draw("line", { x1: begin, x2: x(group.turn + member.turns), y1: y, y2: y, stroke, "stroke-width": 0.3, opacity: 0.35 }));
          if (x(until) > begin) row.append(draw("line", { x1: begin, x2: x(until), y1: y, y2: y, stroke, "stroke-width": member.ok ? 0.95 : 0.6, ...(member.ok ? {} : { "stroke-dasharray": "2 1.2" }) }));
          row.append(end(member, x(group.turn + member.turns), y, stroke));
          row.append(draw("title", {}, `${own.signatures[member.s] || "no signature"}: ${member.ok ? "succeeds" : "fails"} after ${counted(member.turns, "turn")}, return ${member.r}, advantage ${number(member.a)}`));
          svg.append(row);
        }
        y += rowHeight * 0.4;
      }
      for (const [turn, name] of own.seed ? marks(drawn) : []) {
        svg.append(draw("circle", { cx: x(turn), cy: top, r: 1.4, fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 0.4 }),
          draw("text", { x: x(turn), y: top + 0.7, "text-anchor": "middle", style: `font-size:${name.length > 1 ? 1.5 : 2}px` }, name));
      }
      return svg;
    }

    function credit(own, drawn) {
      const head = make("tr");
      for (const title of ["state", "signature", own.seed ? "vines" : "episodes", "succeed", "mean return", "mean advantage"]) head.append(make("th", { scope: "col" }, title));
      const bodyRows = make("tbody");
      for (const { group, index } of drawn) {
        const kinds = new Map();
        for (const member of group.members) kinds.set(member.s, [...(kinds.get(member.s) || []), member]);
        [...kinds.entries()].sort((a, b) => b[1].length - a[1].length).forEach(([signature, members], at) => {
          const mean = (name) => members.reduce((sum, member) => sum + member[name], 0) / members.length;
          const scored = members.every((member) => member.a !== null);
          bodyRows.append(make("tr", {},
            make("th", { scope: "row" }, at ? "" : own.seed ? `${index + 1}, turn ${group.turn}` : "start"),
            make("td", {}, make("i", { class: "dot", style: `background:${signatureColour(signature)}` }), own.signatures[signature] || "none"),
            make("td", {}, String(members.length)), make("td", {}, String(members.filter((member) => member.ok).length)),
            make("td", {}, mean("r").toFixed(3)), make("td", {}, scored ? number(mean("a")) : "never scored")));
        });
      }
      const every = drawn.flatMap(({ group }) => group.members.map((member) => member.by_set));
      const by = every.every(Boolean) ? " that its sets gave" : every.some(Boolean) ? ", of sets or the critic," : " that the critic gave";
      return tableOf(`what each strategy was credited: the advantage${by} to a first action, as it was trained on`, head, bodyRows);
    }

    function asText(own) {
      stepping.hidden = true; stepping.style.display = "none";
      const parts = own.groups.map((group) => {
        const rows = group.answers.map((answer) => make("tr", {}, make("th", { scope: "row" }, answer.text || "(nothing)"), make("td", {}, String(answer.count)),
          make("td", {}, String(answer.ok)), make("td", {}, answer.a === null ? "never scored" : number(answer.a))));
        const head = make("tr", {}, ...["what was said", "times", "succeed", "advantage"].map((title) => make("th", { scope: "col" }, title)));
        const rest = group.kinds > group.answers.length ? `, ${group.kinds - group.answers.length} more not listed` : "";
        const after = own.groups.length > 1 || group.turn || group.token
          ? `, from turn ${group.turn}${group.token ? `, token ${group.token}` : ""} on${group.before ? `, after ${group.before}` : ""}` : "";
        return tableOf(`${counted(group.of, "attempt")}${after}: ${group.kinds} different, ${group.ok} succeed${rest}`, head, make("tbody", {}, ...rows));
      });
      told.textContent = "attempts at one state; those with one signature share a line, which shows one of them";
      body.replaceChildren(...parts);
    }
    openTree(0);
  }

  // ---------------------------------------------------------------- begin
  const kinds = { maps, vines };
  for (const place of document.querySelectorAll("[data-widget]")) kinds[place.dataset.widget](place, report.data[place.dataset.key]);
  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const code = copy.previousElementSibling;
      try { await navigator.clipboard.writeText(code.textContent); copy.textContent = "copied"; }
      catch { getSelection().selectAllChildren(code); copy.textContent = "selected"; }
    });
  }
  document.getElementById("theme").addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    try { localStorage.setItem("polytune-theme", next); } catch { /* a page from disk may not remember */ }
    setTheme(next);
  });
  system.addEventListener("change", () => { if (!remembered()) setTheme(system.matches ? "dark" : "light"); });
  setTheme(remembered() || (system.matches ? "dark" : "light"));
})();
