// Filter.
const behaviours = rows.filter((row) => row.dataset.of);
const texts = new Map(behaviours.map((row) => [row, (document.getElementById(row.dataset.of).textContent + " " + row.textContent).toLowerCase()]));
const verdictsOf = (row) => [...row.cells].slice(1).map((cell) => cell.className.split(" ")[0]);
const differs = (row) => row.parentNode.className !== "same" || new Set(verdictsOf(row)).size > 1;
const filter = () => {
  const words = form.elements.text.value.toLowerCase().split(/\s+/);
  const { group, verdict, differ } = form.elements;
  let count = 0;
  for (const row of behaviours) {
    row.hidden =
      !words.every((word) => texts.get(row).includes(word)) ||
      (group.value !== "" && row.dataset.group !== group.value) ||
      (verdict.value !== "" && !verdictsOf(row).includes(verdict.value)) ||
      (differ && differ.checked && !differs(row));
    if (!row.hidden) count += 1;
  }
  for (const body of table.tBodies) body.hidden = [...body.rows].slice(1).every((row) => row.hidden);
  form.elements.shown.value = count + " of " + behaviours.length;
};
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
filter();
