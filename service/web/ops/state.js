// What is wrong, checks, admission, workers and settings.

import { element, keep, setText } from "./dom.js";
import { tableIn, textColumn } from "./table.js";
import { duration, outOf, workersText } from "./text.js";

const RANK = { fail: 0, warn: 1, pass: 2 };

export function findingsIn(list, nothing) {
  const make = () =>
    element(
      "li",
      {},
      element("b", { class: "tag" }),
      " ",
      element("strong"),
      " ",
      element("span", { class: "who" }),
      element("p"),
    );
  return (found) => {
    nothing.hidden = found.length > 0;
    keep(
      list,
      found,
      (one) => one.what,
      make,
      (node, one) => {
        node.className = `finding ${one.status}`;
        setText(node.querySelector(".tag"), one.status);
        setText(node.querySelector("strong"), one.what);
        setText(node.querySelector(".who"), workersText(one.workers));
        setText(node.querySelector("p"), one.advice);
      },
    );
  };
}

export function checksIn(parent) {
  const verdict = textColumn("Verdict", (row) => row.status, "verdict-word");
  const show = tableIn(
    parent,
    "Checks",
    [
      textColumn("Check", (row) => row.check),
      verdict,
      textColumn("Reason", (row) => [row.reason, row.advice].filter(Boolean).join(": ")),
      textColumn("Worker", (row) => row.slots.join(", "), "number"),
      textColumn("Looked", (row) => `${duration(row.age)} ago`, "number"),
    ],
    "No check has told of itself.",
  );
  return (workers) => show(gathered(workers));
}

/** The checks that say the same in several workers, in one row. */
function gathered(workers) {
  const rows = new Map();
  for (const worker of workers) {
    for (const check of worker.checks) {
      const key = [check.check, check.status, check.reason].join(" ");
      const row = rows.get(key) ?? { ...check, key, slots: [] };
      row.age = Math.max(row.age, check.age);
      row.slots.push(worker.slot);
      rows.set(key, row);
    }
  }
  return [...rows.values()].sort((one, other) => RANK[one.status] - RANK[other.status]);
}

export function admissionIn(parent) {
  const show = tableIn(
    parent,
    "Admission",
    [
      textColumn("Gate", (gate) => gate.gate),
      textColumn("Worker", (gate) => gate.slot, "number"),
      textColumn("Admitted", (gate) => outOf(gate.admitted, gate.limit), "number"),
      textColumn("Queued", (gate) => outOf(gate.queued, gate.queue), "number"),
    ],
    "No worker has told of it.",
  );
  return (workers) =>
    show(
      workers.flatMap((worker) =>
        worker.admission.map((gate) => ({
          ...gate,
          slot: worker.slot,
          key: `${gate.gate} ${worker.slot}`,
          status: gate.queued > 0 ? "warn" : "",
        })),
      ),
    );
}

export function workersIn(parent) {
  const show = tableIn(
    parent,
    "Workers",
    [
      textColumn("Worker", (worker) => worker.slot, "number"),
      textColumn("Process", (worker) => worker.pid, "number"),
      textColumn("Runs for", (worker) => told(worker, () => duration(worker.uptime)), "number"),
      textColumn("Version", (worker) => told(worker, () => worker.version)),
      textColumn("Loop", (worker) => told(worker, () => loopText(worker.loop_delay)), "number"),
      textColumn("Schema", (worker) => worker.problem || schemaText(worker.schema)),
    ],
    "No worker runs.",
  );
  return (workers) => show(workers.map((one) => ({ ...one, key: one.pid, status: ill(one) })));
}

function told(worker, text) {
  return worker.problem ? "" : text();
}

function ill(worker) {
  return worker.problem || worker.loop_delay === null ? "fail" : "";
}

function loopText(delay) {
  return delay === null ? "blocked" : duration(delay);
}

function schemaText(schema) {
  if (schema === null) return "not looked at yet";
  const database = schema.current ?? "no revision";
  return schema.state === "current"
    ? `${database}, current`
    : `${schema.state}: database ${database}, release ${schema.head}`;
}

export function settingsIn(parent) {
  return tableIn(
    parent,
    "Settings",
    [
      textColumn("Name", (setting) => setting.name, "stack"),
      textColumn("Value", (setting) => setting.value, "stack"),
      textColumn("From", (setting) => setting.source),
    ],
    "Not loaded.",
  );
}
