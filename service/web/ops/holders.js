// Who has connections, and who waits for one: over all workers and pools, the longest first.

import { element, setText } from "./dom.js";
import { tableIn, textColumn } from "./table.js";
import { duration, site } from "./text.js";

// Two looks at one holder differ by less. Of two that began at the same place so close, which is
// which does not matter: they look alike.
const SAME_SECONDS = 0.05;

/** Numbers for what is seen again and again, so that its row stays the same one. */
class Identities {
  #known = [];
  #next = 0;

  assign(items) {
    const before = [...this.#known];
    this.#known = items.map((item) => {
      const at = before.findIndex(
        (one) => one.where === item.where && Math.abs(one.since - item.since) < SAME_SECONDS,
      );
      const key = at < 0 ? this.#next++ : before.splice(at, 1)[0].key;
      return { ...item, key };
    });
    return this.#known;
  }
}

function longestFirst(workers, kind, identities) {
  const found = workers.flatMap((worker) =>
    worker.pools.flatMap((pool) =>
      pool[kind].map((one) => ({
        ...one,
        pool: pool.pool_name,
        slot: worker.slot,
        since: worker.uptime - one.age,
        where: [worker.pid, pool.pool_name, one.route, site(one.stack ?? [])].join("\n"),
      })),
    ),
  );
  return identities.assign(found.sort((one, other) => other.age - one.age));
}

const route = textColumn("Route", (row) => row.route || "outside of any route", "route");
const pool = textColumn("Pool", (row) => `${row.pool}, worker ${row.slot}`, "pool");

export function holdersIn(parent) {
  const identities = new Identities();
  const age = textColumn(
    "For",
    (row) => (row.is_leaked ? `${duration(row.age)}, leaked` : duration(row.age)),
    "number",
  );
  const show = tableIn(parent, "Who has connections", [age, route, pool, takenAt], "Nobody.");
  return (workers) => {
    const rows = longestFirst(workers, "holders", identities);
    show(rows.map((row) => ({ ...row, status: row.is_leaked ? "warn" : "" })));
  };
}

const takenAt = {
  head: "Taken at",
  class: "stack",
  fill(cell, row) {
    if (row.stack.length === 0) {
      setText(cell, "not known: leak detection is off");
      return;
    }
    if (!cell.querySelector("details")) {
      cell.replaceChildren(element("details", {}, element("summary"), element("pre")));
    }
    setText(cell.querySelector("summary"), site(row.stack));
    setText(cell.querySelector("pre"), row.stack.join("\n"));
  },
};

export function waitersIn(parent) {
  const identities = new Identities();
  const age = textColumn("For", (row) => duration(row.age), "number");
  const show = tableIn(parent, "Who waits for a connection", [age, route, pool], "Nobody.");
  return (workers) => show(longestFirst(workers, "waiters", identities));
}
