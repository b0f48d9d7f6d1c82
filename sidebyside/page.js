"use strict";
const errors = [];
addEventListener("error", (event) => errors.push(event.message));

function sortKey(row, column) {
  const cell = row.cells[column];
  return (cell.dataset.sort ?? cell.textContent).trim();
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [sortKey(row, column), row]);
  const numeric = keyed.every(([key]) => key === "" || !Number.isNaN(Number(key)));
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known goes last, either way
    const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...keyed.map(([, row]) => row));
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sortBy(table, column));
  });
}

// #sort=TABLE:COLUMN clicks a header (again with #sort=TABLE:COLUMN:twice); #selfcheck says what does not work.
async function selfcheck() {
  const pictures = [...document.images];
  await Promise.all(pictures.map((picture) => picture.decode().catch(() => {})));
  const inPage = [...document.querySelectorAll('a[href^="#"]')].map((a) => a.getAttribute("href").slice(1));
  const report = {
    errors,
    pictures: pictures.length,
    broken: pictures.filter((picture) => !(picture.naturalWidth > 0)).map((picture) => picture.alt),
    links: inPage.length,
    dangling: inPage.filter((id) => !document.getElementById(id)),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 80)).filter((name) => !name.startsWith("data:")),
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  document.getElementById("selfcheck").textContent = JSON.stringify(report);
}

const [, action, table, column, twice] = location.hash.match(/^#(selfcheck|sort)(?:=([\w-]+):(\d+)(:twice)?)?$/) ?? [];
if (action === "selfcheck") {
  document.readyState === "complete" ? selfcheck() : addEventListener("load", selfcheck);
} else if (action === "sort") {
  const button = document.querySelectorAll(`#${table} th button`)[Number(column)];
  button?.click();
  if (twice) button?.click();
}
