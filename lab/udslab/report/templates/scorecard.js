"use strict";
// Without this the cells are plain links to the evidence below; with it they open it in place, and rows can be chosen.
const form = document.getElementById("filter");
const body = document.querySelector("tbody");
const rows = [...body.rows];
const dialog = document.querySelector("dialog");
const severity = ["fail", "warn", "info", "pass", "skip"];

// Evidence in place.
document.querySelector("table").addEventListener("click", (event) => {
  const link = event.target.closest("td a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const evidence = document.getElementById(decodeURIComponent(link.hash.slice(1))).cloneNode(true);
  evidence.removeAttribute("id");
  document.getElementById("shown").replaceChildren(evidence);
  dialog.showModal();
});
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

// A closed section hides the place that a link leads to.
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const section = target && target.closest("details");
  if (section && !section.open) {
    section.open = true;
    target.scrollIntoView();
  }
};
window.addEventListener("hashchange", reveal);
reveal();
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));

// The arrow keys go from cell to cell.
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
body.addEventListener("keydown", (event) => {
  const step = steps[event.key];
  const cell = event.target.closest("th, td");
  if (!step || !cell) return;
  const shown = rows.filter((row) => !row.hidden).sort((one, other) => one.rowIndex - other.rowIndex);
  const row = shown[shown.indexOf(cell.parentNode) + step[0]];
  const next = row && row.cells[cell.cellIndex + step[1]];
  const link = next && next.querySelector("a");
  if (link) {
    event.preventDefault();
    link.focus();
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
});

// Filter.
const texts = new Map(rows.map((row) => [row, (row.textContent + document.getElementById("of-" + row.dataset.of).textContent).toLowerCase()]));
const filter = () => {
  const words = form.elements.text.value.toLowerCase().split(/\s+/);
  const verdict = form.elements.verdict.value;
  for (const row of rows) {
    const cells = [...row.querySelectorAll("td:not(.count)")];
    row.hidden = !words.every((word) => texts.get(row).includes(word)) || (verdict !== "" && !cells.some((cell) => cell.classList.contains(verdict)));
    document.getElementById("of-" + row.dataset.of).hidden = row.hidden;
    for (const cell of cells) cell.classList.toggle("dim", verdict !== "" && !cell.classList.contains(verdict));
  }
  form.elements.shown.value = rows.filter((row) => !row.hidden).length + " of " + rows.length;
};
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
filter();

// Sort: by name, by how many, by verdict; a second time the other way.
const rank = (row, index) => {
  const cell = row.cells[index];
  if (!cell) return severity.length;
  if (cell.dataset.rank) return Number(cell.dataset.rank);
  const found = severity.indexOf(cell.className.split(" ")[0]);
  return found < 0 ? severity.length : found;
};
document.querySelectorAll("thead th").forEach((heading, index) => {
  const label = heading.firstElementChild;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sort";
  button.textContent = label.textContent;
  label.replaceWith(button);
  button.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll("thead th").forEach((each) => each.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const by = index === 0
      ? (one, other) => one.cells[0].textContent.localeCompare(other.cells[0].textContent)
      : (one, other) => rank(one, index) - rank(other, index);
    body.append(...[...rows].sort((one, other) => (down ? -1 : 1) * by(one, other)));
  });
});
