(() => {
  const board = document.getElementById("board");
  const form = board.querySelector("form"), body = board.querySelector("tbody");
  const rows = [...body.rows], heads = JSON.parse(board.querySelector(".heads").textContent);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filters = [...form.querySelectorAll("select")].filter((select) => select.name !== "sort");
  const sort = form.elements.sort;
  let up = true;

  const byText = (a, b) => a.localeCompare(b, "en", { numeric: true });
  // Of the values, only those in one group have an order.
  const byValue = (a, b) => {
    const [one, other] = [a, b].map((row) => (row.dataset.group === "" ? Infinity : +row.dataset.group));
    if (one !== other) return one - other;
    if (one === Infinity) return byText(a.dataset.name, b.dataset.name);
    return (a.dataset.number - b.dataset.number) * (a.dataset.higher === "1" ? -1 : 1);
  };
  const orders = {
    value: byValue,
    steps: (a, b) => a.dataset.order - b.dataset.order,
    year: (a, b) => byText(b.dataset.date, a.dataset.date),
  };

  function update() {
    const key = sort.value, words = form.elements.text.value.toLowerCase().split(/\s+/);
    rows.forEach((row, index) => {
      const fits = filters.every(({ name, value }) => !value || `|${row.dataset[name]}|`.includes(`|${value}|`));
      row.hidden = !(fits && words.every((word) => texts[index].includes(word)));
    });
    const order = orders[key] || ((a, b) => byText(a.dataset[key], b.dataset[key]));
    const sorted = key ? [...rows].sort(order) : rows;
    if (key && !up && key !== "value") sorted.reverse();
    const shown = sorted.filter((row) => !row.hidden);
    body.replaceChildren();
    let last = null;
    for (const row of sorted) {
      if (key === "value" && !row.hidden && row.dataset.group !== last) {
        last = row.dataset.group;
        body.append(title(last === "" ? "Not ordered: another protocol, or unknown" : heads[last]));
      }
      body.append(row);
    }
    board.querySelector("output").value = shown.length;
    board.querySelector(".order").hidden = key !== "value";
    for (const head of board.querySelectorAll("thead th[data-key]")) {
      head.removeAttribute("aria-sort");
      if (head.dataset.key === key) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    }
  }

  function title(text) {
    const row = document.createElement("tr"), cell = document.createElement("th");
    row.className = "group";
    cell.colSpan = board.querySelectorAll("thead th").length;
    cell.textContent = text;
    row.append(cell);
    return row;
  }

  form.addEventListener("input", () => { up = true; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  for (const head of board.querySelectorAll("thead th[data-key]"))
    head.querySelector("button").addEventListener("click", () => {
      up = sort.value === head.dataset.key ? !up : true;
      sort.value = head.dataset.key;
      update();
    });
})();
