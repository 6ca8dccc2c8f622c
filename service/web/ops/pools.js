// The pools: a card with figures and a chart for each that serves requests, and a table of all.

import { drawChart, makeChart, spanOf } from "./chart.js";
import { element, keep, setText } from "./dom.js";
import { tableIn, textColumn } from "./table.js";
import { duration, outOf } from "./text.js";

const MAIN = "primary";
const FIGURES = ["Used", "Idle", "Waiting", "Longest wait"];

/** Cards of the pools that requests wait for, those of a worker that does not answer included. */
export function poolsIn(parent) {
  // What each worker said last, by its process.
  let known = new Map();
  return (workers) => {
    known = new Map(
      workers.map((worker) => [worker.pid, worker.problem ? known.get(worker.pid) : worker]),
    );
    const pools = workers.flatMap((worker) => {
      const told = known.get(worker.pid)?.pools ?? [{ pool_name: MAIN, holders: [], waiters: [] }];
      return told.filter(hasCard).map((pool) => withPlace(pool, worker));
    });
    const span = spanOf(pools);
    const fill = (card, pool) => fillCard(card, pool, span);
    keep(parent, pools.sort(byName), (pool) => pool.key, makeCard, fill);
  };
}

export function poolTableIn(parent) {
  const show = tableIn(
    parent,
    "All pools",
    [
      textColumn("Pool", (pool) => pool.pool_name),
      textColumn("Worker", (pool) => pool.slot, "number"),
      textColumn("Used", (pool) => outOf(pool.used, pool.max), "number"),
      textColumn("Idle", (pool) => pool.idle, "number"),
      textColumn("Waiting", (pool) => pool.pending, "number"),
      textColumn("Longest wait", longestWait, "number"),
    ],
    "No worker has told of its pools.",
  );
  return (workers) =>
    show(workers.flatMap((worker) => worker.pools.map((pool) => withPlace(pool, worker))));
}

function withPlace(pool, worker) {
  return {
    ...pool,
    slot: worker.slot,
    problem: worker.problem,
    key: `${worker.slot} ${worker.pid} ${pool.pool_name}`,
    status: worker.problem ? "fail" : statusOf(pool),
  };
}

function hasCard(pool) {
  if (pool.pool_name === MAIN) return true;
  return pool.max !== 1 && Math.max(pool.used, ...(pool.history?.used ?? [])) > 0;
}

function statusOf(pool) {
  if (pool.is_suspended || pool.waiters.length > 0) return "fail";
  return pool.max !== null && pool.used >= 0.9 * pool.max ? "warn" : "";
}

// Not by their load: cards that change places cannot be watched.
function byName(one, other) {
  const rank = (pool) => (pool.pool_name === MAIN ? 0 : 1);
  return rank(one) - rank(other) || one.key.localeCompare(other.key, "en", { numeric: true });
}

function makeCard() {
  return element(
    "article",
    { class: "card" },
    element("h3"),
    element("dl", {}, ...FIGURES.map(figure)),
    makeChart(),
  );
}

function figure(name) {
  return element("div", {}, element("dt", {}, name), element("dd"));
}

function fillCard(card, pool, span) {
  card.className = `card ${pool.status} ${pool.problem ? "silent" : ""}`;
  setText(card.querySelector("h3"), `${pool.pool_name}, worker ${pool.slot}${remark(pool)}`);
  const figures = card.querySelectorAll("dd");
  const isKnown = pool.used !== undefined;
  const texts = isKnown
    ? [outOf(pool.used, pool.max), pool.idle, pool.pending, longestWait(pool)]
    : FIGURES.map(() => "?");
  texts.forEach((text, place) => {
    setText(figures[place], text);
  });
  if (isKnown) drawChart(card.querySelector(".chart"), pool, span);
}

function remark(pool) {
  if (pool.problem) return ": does not answer, this is what it said last";
  return pool.is_suspended ? ": suspended" : "";
}

function longestWait(pool) {
  return pool.oldest_wait ? duration(pool.oldest_wait) : "none";
}
