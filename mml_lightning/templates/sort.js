{# Every table sorts by itself; cells without a value go last whichever way it is sorted. #}
document.querySelectorAll("table").forEach(table => table.querySelectorAll("th[tabindex]").forEach((head, column) => {
  const sort = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0], text = row => row.cells[column].dataset.value;
    [...body.rows].sort((a, b) => {
      if (text(a) === "" || text(b) === "") return (text(a) === "") - (text(b) === "");
      const numbers = text(a) - text(b);
      return (isNaN(numbers) ? text(a).localeCompare(text(b)) : numbers) * (up ? 1 : -1);
    }).forEach(row => body.append(row));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}));
