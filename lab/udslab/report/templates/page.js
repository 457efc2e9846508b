"use strict";
// Without this the cells are plain links to the evidence below; with it they open it in place, and rows can be chosen.
const form = document.getElementById("filter");
const table = document.querySelector("table");
const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
const dialog = document.querySelector("dialog");

// Evidence in place.
table.addEventListener("click", (event) => {
  const link = event.target.closest("td a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const evidence = document.getElementById(decodeURIComponent(link.hash.slice(1))).cloneNode(true);
  evidence.removeAttribute("id");
  const column = String(link.closest("td").cellIndex);
  for (const each of evidence.querySelectorAll("[data-in]")) each.classList.toggle("chosen", each.dataset.in.split(" ").includes(column));
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
table.addEventListener("keydown", (event) => {
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

