// Tables sort by their headings. Rows of class "part" stay below the row they belong to; a family's name, printed once,
// is filled in while the order is another one.
document.documentElement.classList.add("js");
const key = (cell) => {
  const text = (cell ? cell.textContent : "").trim();
  const number = parseFloat(text.replace(/[−–]/g, "-").replace(/[,<(]/g, ""));
  return { text, number, rank: text === "" ? 2 : Number.isNaN(number) ? 1 : 0 };
};
const compare = (a, b, sign) =>
  a.rank - b.rank || sign * (a.rank ? a.text.localeCompare(b.text) : a.number - b.number);
const cellAt = (row, place) => {
  for (const cell of row.cells) {
    place -= cell.colSpan;
    if (place < 0) return cell;
  }
};
for (const table of document.querySelectorAll("table:not(.answers)")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const rows = [...body.rows];
  const rules = rows.map((row) => row.classList.contains("rule"));
  const groups = [];
  for (const row of rows) row.classList.contains("part") && groups.length ? groups.at(-1).push(row) : groups.push([row]);
  const blanks = [];
  heads.forEach((head, place) => {
    if (head.classList.contains("num") || head.classList.contains("name")) return;
    let last = "";
    for (const [row] of groups) {
      const cell = cellAt(row, place);
      if (cell && cell.textContent.trim()) last = cell.innerHTML;
      else if (cell) blanks.push([cell, last]);
    }
  });
  const show = (order, sorted) => {
    for (const [cell, text] of blanks) {
      cell.innerHTML = sorted ? text : "";
      cell.classList.toggle("filled", sorted);
    }
    rows.forEach((row, i) => row.classList.toggle("rule", !sorted && rules[i]));
    body.append(...order.flat());
  };
  heads.forEach((head, place) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === null ? "ascending" : now === "ascending" ? "descending" : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next === null) return show(groups, false);
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const keys = new Map(groups.map((group) => [group, key(cellAt(group[0], place))]));
      show([...groups].sort((a, b) => compare(keys.get(a), keys.get(b), sign)), true);
    });
  });
}
