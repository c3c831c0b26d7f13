// The API: reading it over and over, waiting for events, writing. Nothing is asked while the page is hidden.

const BASE = document.documentElement.dataset.api;
const ROOT = BASE + '/9/';
const PAUSE = 2000;
// What is read, and each how many rounds.
const FEEDS = {
  nginx: 1, connections: 1, 'http/requests': 1, 'http/upstreams': 1, 'http/rate_limits': 1, 'http/circuit_breakers': 1, 'http/bans': 1,
  'http/server_zones': 2, 'http/location_zones': 2, 'http/limit_reqs': 2, 'http/limit_conns': 2, 'http/caches': 5, slabs: 10,
};

const world = {};
const link = { state: 'connecting', time: NaN, status: 0, writable: false };
let offered = null;
let rounds = 0;

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function call(method, path, body, options = {}) {
  const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
  const answer = await fetch(ROOT + path, {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-cache', redirect: 'error', signal: AbortSignal.timeout(10000), ...options,
  });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let text = '';
  try {
    text = (await answer.json()).error.text;
  } catch {
    // The answer of somebody in between.
  }
  throw new Refused(answer.status, String(text || answer.statusText || answer.status));
}

// The names the API has now, so that what it has not is not asked for.
async function directory() {
  const [top, http] = await Promise.all([call('GET', ''), call('GET', 'http/')]);
  return new Set([...top, ...http.map((name) => 'http/' + name)]);
}

// Whether writing is allowed, the way NGINX Plus's dashboard finds out: a server that cannot exist is deleted.
async function askWritable() {
  try {
    await call('DELETE', 'http/upstreams/DASHBOARD_INIT/servers/__TEST_FOR_WRITE__/');
    link.writable = true;
  } catch (error) {
    link.writable = error instanceof Refused && ![401, 403, 405, 501].includes(error.status);
  }
  put(document.body, 'data-write', link.writable);
}

async function readAll() {
  const back = !offered;
  if (back || rounds % 30 === 0) offered = await directory();
  if (back) await askWritable();
  const due = Object.keys(FEEDS).filter((path) => offered.has(path) && (rounds % FEEDS[path] === 0 || !world[path]));
  const read = await Promise.all(due.map((path) => call('GET', path).catch((error) => {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  })));
  due.forEach((path, i) => (world[path] = read[i]));
  for (const path of Object.keys(world)) if (!offered.has(path)) delete world[path];
  rounds++;
}

let timer = 0;
let reading = false;
let again = false;
async function round() {
  clearTimeout(timer);
  if (document.hidden) return;
  if (reading) return void (again = true);
  reading = true;
  const began = performance.now();
  try {
    await readAll();
    if (world.nginx && world.nginx.ppid !== log.master) relisten(world.nginx.ppid);
    if (world.nginx && at(world.nginx.timestamp)) skew = at(world.nginx.timestamp) - Date.now();
    Object.assign(link, { state: 'live', time: now(), status: 200 });
  } catch (error) {
    Object.assign(link, { state: [401, 403].includes(error.status) ? 'denied' : 'away', status: error.status || 0, error: error.name });
    offered = null;
  }
  if (link.state === 'live') show();
  showLink();
  reading = false;
  // A page that is heavy to read or to show asks less often.
  const pause = link.state === 'live' ? Math.max(PAUSE, 8 * (performance.now() - began)) : 3000;
  timer = setTimeout(round, again ? 250 : pause);
  again = false;
}
function soon() {
  if (reading) again = true;
  else {
    clearTimeout(timer);
    timer = setTimeout(round, 50);
  }
}

// Events, by a call that stays open until there are some. Where that is not to be had, the round is soon enough.
const log = { last: 0, events: [], asked: false, master: undefined };
let waiting = null;
// Another master has another log, which may have come as far meanwhile as the one before.
function relisten(master) {
  if (log.master !== undefined) {
    Object.assign(log, { last: 0, events: [], asked: false });
    if (waiting) waiting.abort();
    waiting = null;
    showEvents();
    listen();
  }
  log.master = master;
}
async function listen() {
  if (waiting || document.hidden) return;
  const mine = (waiting = new AbortController());
  while (waiting === mine && !document.hidden) {
    let pause = PAUSE;
    if (offered && offered.has('events')) {
      const began = performance.now();
      try {
        const page = await call('GET', `events?since=${log.last}&wait=${log.asked ? 30 : 0}`, undefined, { signal: AbortSignal.any([mine.signal, AbortSignal.timeout(45000)]) });
        took(page);
        pause = page.events.length || performance.now() - began > 1000 ? 100 : PAUSE;
      } catch {
        pause = 3000;
      }
    }
    await new Promise((go) => setTimeout(go, pause));
  }
  if (waiting === mine) waiting = null;
}
function took(page) {
  const fresh = list_of(page.events);
  log.asked = true;
  if (page.last < log.last) log.events = []; // it counts from the start again
  log.last = Number(page.last) || 0;
  if (!fresh.length) return;
  log.events = [...fresh.reverse(), ...log.events].slice(0, 256);
  showEvents();
  soon();
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(timer);
    if (waiting) waiting.abort();
    waiting = null;
  } else {
    round();
    listen();
  }
  showLink();
});
