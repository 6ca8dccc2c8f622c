// A pool's last minutes: used and idle connections in a pile, and on it those that wait.

import { element, setAttributes, setText, shape } from "./dom.js";
import { duration } from "./text.js";

// How many seconds a chart may show: as few as show all that there is.
const SPANS = [60, 120, 300, 600];
const WIDTH = 600;
const HEIGHT = 100;
const NOTHING = -1;

export function makeChart() {
  const drawing = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
  });
  for (const name of ["gap", "idle", "used", "pending", "limit"]) {
    drawing.append(shape("path", { class: name, d: "" }));
  }
  const axis = element(
    "div",
    { class: "axis", "aria-hidden": "true" },
    element("span"),
    element("span"),
    element("span"),
  );
  const top = element("span", { class: "top", "aria-hidden": "true" });
  return element("div", { class: "chart" }, top, drawing, axis);
}

/** How many seconds to show, for all charts alike. */
export function spanOf(pools) {
  const longest = Math.max(0, ...pools.map((pool) => pool.history?.used.length ?? 0));
  return SPANS.find((span) => span >= longest) ?? SPANS.at(-1);
}

export function drawChart(chart, pool, span) {
  const history = pool.history ?? { used: [], idle: [], pending: [] };
  const open = sum(history.used, history.idle);
  const all = sum(open, history.pending);
  const top = Math.max(pool.max ?? 1, 1, ...all);
  const drawing = chart.querySelector("svg");
  const zero = all.map((count) => (count === NOTHING ? NOTHING : 0));
  const paths = {
    gap: area(gaps(all), gaps(all, 0), { top: 1, span }),
    used: area(history.used, zero, { top, span }),
    idle: area(open, history.used, { top, span }),
    pending: area(all, open, { top, span }),
    limit: pool.max === null ? "" : `M0 ${height(pool.max, top)}H${WIDTH}`,
  };
  for (const [name, d] of Object.entries(paths)) {
    setAttributes(drawing.querySelector(`.${name}`), { d });
  }
  setText(chart.querySelector(".top"), top);
  const marks = [`${duration(span)} ago`, duration(span / 2), "now"];
  chart.querySelectorAll(".axis span").forEach((mark, place) => {
    setText(mark, marks[place]);
  });
  setAttributes(drawing, { "aria-label": summary(pool, history) });
}

function summary(pool, history) {
  const most = (counts) => Math.max(0, ...counts);
  return (
    `Pool ${pool.pool_name}, the last ${Math.ceil(history.used.length / 60)} minutes:` +
    ` at most ${most(history.used)} used and ${most(history.pending)} waiting;` +
    ` now ${pool.used} used and ${pool.pending} waiting`
  );
}

function sum(some, others) {
  return some.map((count, at) => (count === NOTHING ? NOTHING : count + others[at]));
}

/** Where nobody looked, as a series of its own. */
function gaps(counts, value = 1) {
  return counts.map((count) => (count === NOTHING ? value : NOTHING));
}

/** The area between two series, in steps, with a hole where there is nothing. */
function area(upper, lower, scale) {
  let path = "";
  for (let from = 0; from < upper.length; ) {
    let to = from;
    while (to < upper.length && upper[to] !== NOTHING) to += 1;
    if (to > from) path += stripe(upper, lower, { from, to, ...scale });
    from = to + 1;
  }
  return path;
}

function stripe(upper, lower, { from, to, top, span }) {
  const across = (at) => (WIDTH * (span - upper.length + at)) / span;
  let there = "";
  let back = "";
  for (let at = from; at < to; ) {
    let end = at + 1;
    while (end < to && upper[end] === upper[at] && lower[end] === lower[at]) end += 1;
    there += `V${height(upper[at], top)}H${across(end)}`;
    back = `V${height(lower[at], top)}H${across(at)}${back}`;
    at = end;
  }
  return `M${across(from)} ${height(lower[from], top)}${there}${back}Z`;
}

function height(count, top) {
  return Math.round(10 * (HEIGHT - 2) * (1 - count / top)) / 10 + 1;
}
