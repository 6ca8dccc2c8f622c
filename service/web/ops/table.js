// Tables, which become a list of cards where there is no room for columns.

import { element, keep, setText } from "./dom.js";

/**
 * A table below an element.
 *
 * The roles are written out: laid out as cards, it would no longer be a table to a screen reader.
 * A column is a heading, what fills its cell, and a class.
 */
export function tableIn(parent, label, columns, nothing) {
  const heads = columns.map((one) =>
    element("th", { role: "columnheader", scope: "col", class: one.class ?? "" }, one.head),
  );
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  const body = element("tbody", { role: "rowgroup" });
  const table = element("table", { role: "table", "aria-label": label }, head, body);
  const none = element("p", { class: "muted" }, nothing);
  parent.append(table, none);

  return (rows) => {
    table.hidden = rows.length === 0;
    none.hidden = rows.length > 0;
    const makeRow = () => element("tr", { role: "row" }, ...columns.map(cellOf));
    keep(
      body,
      rows,
      (row) => row.key,
      makeRow,
      (node, row) => {
        node.className = row.status ?? "";
        columns.forEach((column, place) => {
          column.fill(node.children[place], row);
        });
      },
    );
  };
}

/** A column that shows a text. */
export function textColumn(head, text, name = "") {
  return { head, class: name, fill: (cell, row) => setText(cell, text(row)) };
}

function cellOf(column) {
  return element("td", { role: "cell", "data-label": column.head, class: column.class ?? "" });
}
