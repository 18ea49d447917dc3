"use strict";
(() => {
  const AXIS = 62, GAP = 18;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  // A specification for a width: several panels share it, one takes it all.
  function fitted(spec, width, panel, tall) {
    const made = structuredClone(spec);
    const higher = (view) => {
      if (typeof view.height === "number") view.height = Math.round(view.height * tall);
    };
    if (made.facet) {
      const most = Math.max(1, Math.floor((width - AXIS + GAP) / (panel + GAP)));
      const columns = Math.min(most, made.facet.sort.length);
      made.columns = columns;
      made.spec.width = Math.floor((width - AXIS + GAP) / columns - GAP);
      if (made.usermeta?.axes) made.spec.width -= AXIS - 14;
      higher(made.spec);
    } else if (made.vconcat) {
      made.vconcat.forEach((view) => { view.width = width - AXIS - 8; higher(view); });
    } else {
      made.width = width;
      made.autosize = { type: "fit-x", contains: "padding" };
      higher(made);
    }
    return made;
  }

  async function draw(chart, spec, panel, tall = 1) {
    const width = Math.floor(chart.clientWidth);
    const theme = dark.matches ? "dark" : "light";
    const now = `${width} ${theme}`;
    if (!width || chart.dataset.drawn === now) return;
    chart.dataset.drawn = now;
    drawn.get(chart)?.finalize();
    const found = await vegaEmbed(chart, fitted(spec, width, panel, tall), {
      mode: "vega-lite", renderer: "svg", actions: false, config: themes[theme],
    });
    drawn.set(chart, found);
    chart.querySelector("svg").setAttribute("aria-hidden", "true");  // the chart itself has a label
    chart.dataset.done = now;
  }

  const figures = [...document.querySelectorAll("figure")].map((figure) => {
    const chart = figure.querySelector(".chart");
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const panel = Number(chart.dataset.panel) || 0;
    return { figure, chart, spec, panel, draw: () => draw(chart, spec, panel) };
  });
  const byChart = new Map(figures.map((each) => [each.chart, each]));
  const near = new Set();

  function redraw() {
    near.forEach((each) => each.draw());
    figures.forEach((each) => { if (!near.has(each)) delete each.chart.dataset.drawn; });
  }

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const each = byChart.get(entry.target);
      if (entry.isIntersecting) { near.add(each); each.draw(); } else near.delete(each);
    }
  }, { rootMargin: "600px" });
  figures.forEach((each) => watch.observe(each.chart));
  dark.addEventListener("change", redraw);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });

  // Tools of a figure.
  const dialog = document.querySelector("dialog");
  function enlarge({ figure, spec, panel }) {
    const chart = dialog.querySelector(".chart");
    chart.replaceChildren();
    delete chart.dataset.drawn;
    dialog.setAttribute("aria-label", figure.querySelector("figcaption").firstElementChild.textContent);
    dialog.showModal();
    draw(chart, spec, panel * 1.6, 1.7);
  }
  async function save({ figure, chart }) {
    const link = document.createElement("a");
    link.href = await drawn.get(chart).view.toImageURL("svg");
    link.download = `${figure.id}.svg`;
    link.click();
  }
  for (const each of figures) {
    each.figure.querySelector(".tools").hidden = false;
    each.figure.querySelector(".enlarge").addEventListener("click", () => enlarge(each));
    each.figure.querySelector(".save").addEventListener("click", () => save(each));
  }

  // Tables.
  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    if (a === "" || b === "") return 0;
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x === y ? 0 : x - y;
  }
  function sort(head, column) {
    const table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...body.rows];
    const known = rows.filter((row) => key(row) !== "");
    known.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
    body.append(...known, ...rows.filter((row) => key(row) === ""));
  }
  document.querySelectorAll("thead th").forEach((head) => {
    head.querySelector("button").addEventListener("click", () => sort(head, head.cellIndex));
  });

  // One page at a time in the file that holds them all.
  const pages = [...document.querySelectorAll(".single main > article")];
  function show(moved) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (moved && target && !target.closest("article")) return;  // the link that skips the menu
    const page = target?.closest("article") ?? pages[0];
    pages.forEach((other) => { other.hidden = other !== page; });
    document.title = `${page.dataset.title} · gradient clipping, tried`;
    document.querySelectorAll("nav a").forEach((link) => {
      if (link.dataset.page === page.dataset.menu) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
    if (!moved) return;
    if (!target || target === page) scrollTo(0, 0); else target.scrollIntoView();
    const head = page.querySelector("h1");
    head.tabIndex = -1;
    head.focus({ preventScroll: true });
  }
  if (pages.length) {
    addEventListener("hashchange", () => show(true));
    show(Boolean(location.hash));
  }
})();
