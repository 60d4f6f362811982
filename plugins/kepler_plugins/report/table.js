// Sort and filter tables. Without scripts, the page shows the whole tables in their first order.
(() => {
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    table.tHead.addEventListener("click", (event) => {
      // only the button sorts, so that a pointer does the same as the keyboard
      const header = event.target.closest("button")?.closest("th");
      if (!header) return;
      const column = header.cellIndex;
      const rising = header.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const number = header.classList.contains("n");
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [value(one, column), value(other, column)];
        // unknown values come last in both directions
        if (number && (a === "" || b === "")) return (a === "") - (b === "");
        const order = number ? a - b : a.localeCompare(b);
        return rising ? order : -order;
      });
      body.append(...rows);
    });
  }
  for (const filter of document.querySelectorAll("input[data-filters]")) {
    const rows = document.getElementById(filter.dataset.filters).tBodies[0].rows;
    const count = filter.parentElement.querySelector("output");
    filter.hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      const shown = [...rows].filter((row) => !row.hidden).length;
      if (count) count.textContent = `${shown} of ${rows.length}`;
    });
  }
})();
