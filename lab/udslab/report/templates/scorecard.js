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

const severity = ["fail", "warn", "info", "pass", "skip"];

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
    table.tBodies[0].append(...[...rows].sort((one, other) => (down ? -1 : 1) * by(one, other)));
  });
});
