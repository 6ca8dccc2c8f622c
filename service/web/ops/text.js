// How numbers and places in the code are written.

/** Seconds, as a person says them. */
export function duration(seconds) {
  if (seconds < 0.001) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return [Math.floor(whole / 60), "min", ...rest(whole % 60, "s")].join(" ");
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} days`;
}

function rest(count, unit) {
  return count === 0 ? [] : [count, unit];
}

export function outOf(count, most) {
  return most === null ? String(count) : `${count} of ${most}`;
}

/** Which workers, by their slots. */
export function workersText(slots) {
  if (slots.length === 0) return "";
  return `${slots.length > 1 ? "workers" : "worker"} ${slots.join(", ")}`;
}

/** The line of a stack that tells most: the first that is not the database kit's own. */
export function site(stack) {
  return stack.find((line) => !line.startsWith("service/database/")) ?? stack[0] ?? "";
}
