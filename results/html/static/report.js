"use strict";
/* Theme, tables and the choice of a figure. Without it the page shows everything, unsorted. */
(() => {
  const root = document.documentElement;
  const THEMES = ["auto", "light", "dark"];

  /* Storage may be forbidden to pages from disk: the choice then lasts as long as the page. */
  function stored() {
    try {
      return localStorage.getItem("mdtbench-theme");
    } catch {
      return null;
    }
  }

  function store(theme) {
    try {
      localStorage.setItem("mdtbench-theme", theme);
    } catch {
      /* not remembered */
    }
  }

  function setTheme(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  let theme = THEMES.includes(stored()) ? stored() : "auto";
  setTheme(theme); // before the page is drawn

  function startTheme(button) {
    const name = button.querySelector("span");
    name.textContent = theme;
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      name.textContent = theme;
      setTheme(theme);
      store(theme);
    });
  }

  /* A table's lines with where they stood at first; blocks are its bodies. */
  class ResultTable {
    constructor(table) {
      this.table = table;
      this.heads = [...table.tHead.rows[0].cells];
      this.bodies = [...table.tBodies];
      this.lines = this.bodies.flatMap((body) => [...body.rows].filter((row) => row.dataset.name !== undefined));
      this.home = new Map(this.lines.map((row) => [row, row.parentElement]));
      this.column = -1;
      this.order = "";
      this.heads.forEach((head, column) => {
        head.querySelector("button").addEventListener("click", () => this.click(column));
      });
      const paper = this.heads.findIndex((head) => head.classList.contains("paper"));
      if (paper >= 0) [...table.rows].forEach((row) => row.cells[paper]?.classList.add("paper-first"));
    }

    click(column) {
      const first = this.heads[column].dataset.first;
      const second = first === "ascending" ? "descending" : "ascending";
      if (this.column !== column) this.order = first;
      else this.order = this.order === first ? second : this.order === second ? "" : first;
      this.column = column;
      this.arrange();
    }

    arrange() {
      this.heads.forEach((head, column) => {
        if (column === this.column && this.order) head.setAttribute("aria-sort", this.order);
        else head.removeAttribute("aria-sort");
      });
      const across = this.order && !blocks.checked;
      const lines = this.order ? [...this.lines].sort((a, b) => this.compare(a, b)) : this.lines;
      for (const row of lines) (across ? this.bodies[0] : this.home.get(row)).append(row);
      this.table.classList.toggle("across", Boolean(across));
      this.showGroups();
    }

    compare(a, b) {
      const [x, y] = [a, b].map((row) => row.cells[this.column].dataset.order);
      if (x === "" || y === "") return (x === "") - (y === ""); // what has no value is last either way
      const [p, q] = [Number(x), Number(y)];
      const sign = this.order === "ascending" ? 1 : -1;
      return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
    }

    filter(words) {
      for (const row of this.lines) {
        const name = row.dataset.name.toLowerCase();
        row.hidden = !words.every((word) => name.includes(word));
      }
      this.showGroups();
      return this.lines.filter((row) => !row.hidden).length;
    }

    showGroups() {
      const across = this.table.classList.contains("across");
      for (const body of this.bodies) {
        const group = body.querySelector("tr.group");
        group.hidden = across || ![...body.rows].some((row) => row !== group && !row.hidden);
      }
    }
  }

  let blocks = null;

  function startTables(tools) {
    const tables = [...document.querySelectorAll("table.results")].map((table) => new ResultTable(table));
    const filter = document.getElementById("filter");
    const found = document.getElementById("found");
    const paper = document.getElementById("paper");
    blocks = document.getElementById("blocks");
    tools.hidden = false;

    const filterAll = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const counts = tables.map((table) => table.filter(words));
      const count = counts.reduce((sum, one) => sum + one, 0);
      found.textContent = words.length ? `${count} line${count === 1 ? "" : "s"} in ${counts.filter(Boolean).length} tables` : "";
    };
    const showPaper = () => {
      if (paper.checked) root.dataset.paper = "";
      else delete root.dataset.paper;
    };
    filter.addEventListener("input", filterAll);
    blocks.addEventListener("change", () => tables.forEach((table) => table.arrange()));
    filterAll(); // a browser may have kept what was typed
    if (paper) {
      paper.addEventListener("change", showPaper);
      showPaper();
    }
  }

  function startFigures(select) {
    const figures = [...document.querySelectorAll("figure[data-metric]")];
    const show = () => figures.forEach((figure) => (figure.hidden = figure.dataset.metric !== select.value));
    select.closest("label").hidden = false;
    select.addEventListener("change", show);
    show();
  }

  /* A box that holds more to the right says so; its edge fades. */
  function startScrolling(box) {
    const cue = document.createElement("p");
    cue.className = "cue";
    cue.textContent = "More columns to the right →";
    box.before(cue);
    const show = () => {
      const more = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
      box.classList.toggle("more", more);
      cue.hidden = box.scrollWidth <= box.clientWidth + 2;
      cue.style.visibility = more ? "" : "hidden"; // its place stays, so that nothing jumps
    };
    box.addEventListener("scroll", show, { passive: true });
    new ResizeObserver(show).observe(box);
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".scroll").forEach(startScrolling);
    const start = (id, begin) => {
      const element = document.getElementById(id);
      if (element) begin(element);
    };
    start("theme", startTheme);
    start("tools", startTables);
    start("metric", startFigures);
  });
})();
