// The ops page: asks for the data, and shows what is wrong first.

import { setText } from "./dom.js";
import { holdersIn, waitersIn } from "./holders.js";
import { poolsIn, poolTableIn } from "./pools.js";
import { admissionIn, checksIn, findingsIn, settingsIn, workersIn } from "./state.js";
import { duration } from "./text.js";

const EVERY_MS = 2000;
// Nobody looks; the title tells of what happens all the same.
const HIDDEN_EVERY_MS = 15000;
const DEADLINE_MS = 3000;
const STALE_SECONDS = 6;
const VERDICTS = { pass: "All is well", warn: "Warnings", fail: "Failing" };

const at = (id) => document.getElementById(id);
const showFindings = findingsIn(at("findings-list"), at("nothing"));
const views = [
  poolTableIn(at("pool-table")),
  holdersIn(at("holders")),
  waitersIn(at("waiters")),
  checksIn(at("checks")),
  admissionIn(at("admission")),
];
const showPools = poolsIn(at("pools"));
const showWorkers = workersIn(at("workers"));
const showSettings = settingsIn(at("settings"));

let answeredAt = null;
let isPaused = false;
let timer = 0;

async function ask(what) {
  const answer = await fetch(`ops/${what}`, { signal: AbortSignal.timeout(DEADLINE_MS) });
  if (answer.status === 401) {
    // The session is over: sign in again.
    location.assign("ops/login");
  }
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

async function look() {
  clearTimeout(timer);
  const data = await askForData();
  clearTimeout(timer);
  // Who has paused meanwhile reads what is there.
  if (isPaused) return;
  timer = setTimeout(look, document.hidden ? HIDDEN_EVERY_MS : EVERY_MS);
  if (data !== null) {
    show(data);
    answeredAt = performance.now();
  }
  tellAge();
}

async function askForData() {
  try {
    return await ask("data");
  } catch {
    // The service is away, or slow: the verdict says so as soon as what is shown is old.
    return null;
  }
}

function show(data) {
  setText(at("name"), data.name);
  setText(at("build"), `${data.version}, Python ${data.python}, ${data.environment}`);
  showFindings(data.findings);
  const answering = data.workers.filter((worker) => !worker.problem);
  for (const view of views) view(answering);
  showPools(data.workers);
  showWorkers(data.workers);
  verdict(data.status, VERDICTS[data.status]);
  document.title = `${data.status === "pass" ? "" : `${data.status.toUpperCase()} `}${data.name} ops`;
}

function verdict(status, text) {
  at("verdict").className = `verdict ${status}`;
  setText(at("verdict"), text);
}

function tellAge() {
  const seconds = answeredAt === null ? 0 : (performance.now() - answeredAt) / 1000;
  const isStale = !isPaused && !document.hidden && (answeredAt === null || seconds > STALE_SECONDS);
  document.body.classList.toggle("stale", isStale && answeredAt !== null);
  const age = answeredAt === null ? "" : `as of ${duration(Math.floor(seconds))} ago`;
  setText(at("freshness"), isPaused ? `paused, ${age}` : age);
  if (isStale && answeredAt !== null) {
    verdict("fail", "The service does not answer");
    document.title = "NO ANSWER ops";
  }
}

async function loadSettings() {
  let settings;
  try {
    settings = await ask("settings");
  } catch {
    // It says "Not loaded.", and opening it again loads it.
    return;
  }
  showSettings(settings.map((one) => ({ ...one, key: one.name })));
}

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", isPaused);
  if (!isPaused) look();
  tellAge();
});
at("settings-details").addEventListener("toggle", (event) => {
  if (event.target.open) loadSettings();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !isPaused) look();
});
setInterval(tellAge, 1000);
showSettings([]);
look();
