// What the numbers mean: a state, a shape and a word for everything, and the list of what is wrong.

// Levels: 0 well, 1 worth knowing, 2 needs a look, 3 wrong; `off`: somebody wants it so.
const state = (shape, level, word) => ({ shape, level, word });
const STATES = {
  up: state('up', 0, 'up'),
  warming: state('warming', 1, 'warming up'),
  full: state('warming', 1, 'full'),
  draining: state('draining', 'off', 'draining'),
  down: state('down', 'off', 'down'),
  degraded: state('degraded', 2, 'degraded'),
  checking: state('checking', 2, 'checking'),
  half_open: state('half_open', 2, 'testing'),
  unavail: state('unavail', 3, 'unavailable'),
  unhealthy: state('unhealthy', 3, 'unhealthy'),
  open: state('open', 3, 'breaker open'),
};
const BREAKERS = {
  closed: state('up', 0, 'closed'), half_open: state('half_open', 2, 'half-open'), open: state('open', 3, 'open'),
  forced_open: state('open', 3, 'held open'), forced_closed: state('warn', 2, 'held closed'),
};
const VERDICTS = { healthy: state('up', 0, 'healthy'), degraded: state('warn', 2, 'degraded'), broken: state('unavail', 3, 'broken') };
const unknown = (word) => state('unknown', 2, String(word));
const named = (table, name) => (Object.hasOwn(table, name) ? table[name] : unknown(name));
const weigh = (level) => (level === 'off' ? 0 : level);
const list = (value) => (Array.isArray(value) ? value : value ? [value] : []).map(String);
const isObject = (value) => Boolean(value) && typeof value === 'object' && !Array.isArray(value);
const entries = (map) => (isObject(map) ? Object.entries(map).filter(([, value]) => isObject(value)) : []);

// Whether a breaker lets nothing through, by itself or by hand. One in a dry run only says what it would do.
const isDry = (breaker) => breaker.dry_run || Boolean(breaker.override && breaker.override.state === 'dry_run');
const isOpen = (breaker) => Boolean(breaker) && !isDry(breaker) && (breaker.state === 'open' || breaker.state === 'forced_open');
const isClosed = (breaker) => !breaker || isDry(breaker) || breaker.state === 'closed' || breaker.state === 'forced_closed';
const heldWord = ({ state }) => (state === 'dry_run' ? 'in a dry run' : 'held ' + state);
function breakerState(breaker) {
  const shown = named(BREAKERS, breaker.state);
  return isDry(breaker) && breaker.state !== 'closed' ? { ...shown, level: 1, word: 'would be ' + shown.word } : shown;
}

// The breaker of a server, by its id.
function breakerOf(peer, breakers) {
  const peers = breakers && breakers.peers;
  if (peers && Object.hasOwn(peers, peer.id)) return peers[peer.id];
  return peer.circuit_breaker ? { state: peer.circuit_breaker } : null;
}

function peerState(peer, breaker) {
  if (peer.state !== 'up') return named(STATES, peer.state);
  if (isOpen(breaker)) return STATES.open;
  if (!isClosed(breaker) && breaker.state === 'half_open') return STATES.half_open;
  if (peer.degraded) return STATES.degraded;
  if (list(peer.because).length) return list(peer.because).some((why) => why.endsWith('warms up')) ? STATES.warming : STATES.full;
  return STATES.up;
}

// Why a server takes no traffic, or less, in the API's own words.
function peerWords(peer, breaker, shown) {
  const because = list(peer.because).join('; ') || (shown === STATES.open ? breakerWords(breaker) : '');
  return because.replace(/(?<![\d.])(\d{3,})(?:\.\d+)? s\b/g, (_, seconds) => span(seconds));
}
function breakerWords(breaker) {
  const held = breaker.override;
  if (held) return [held.by && 'by ' + held.by, held.reason].filter(Boolean).join(': ');
  const next = isOpen(breaker) && breaker.retry_after > 0 ? `tests again in ${breaker.retry_after} s` : '';
  return [breaker.reason, next].filter(Boolean).join(', ');
}

// All that the page shows of upstreams, from the two documents that tell of them.
function readUpstreams(world, time) {
  const breakers = world['http/circuit_breakers'] || {};
  return entries(world['http/upstreams']).map(([name, group]) => {
    const own = Object.hasOwn(breakers, name) ? breakers[name] : null;
    const peers = list_of(group.peers).map((peer) => readPeer(name, peer, own, time));
    const upstream = { name, group, breaker: own && own.state ? own : null, peers };
    const serving = peers.filter((p) => p.serves);
    for (const p of peers) p.of = serving.filter((q) => q.peer.backup === p.peer.backup).reduce((sum, q) => sum + q.peer.weight, 0);
    upstream.serving = serving.length;
    upstream.wanted = peers.filter((p) => p.state.level !== 'off').length;
    upstream.bad = peers.filter((p) => p.state.level === 3).length;
    upstream.verdict = verdict(upstream);
    return upstream;
  });
}
const list_of = (value) => (Array.isArray(value) ? value.filter(isObject) : []);

function readPeer(upstream, peer, breakers, time) {
  const breaker = breakerOf(peer, breakers);
  const shown = peerState(peer, breaker);
  const answers = peer.responses || {};
  const counters = { requests: peer.requests, '4xx': answers['4xx'], '5xx': answers['5xx'], total: answers.total };
  return {
    key: upstream + '\n' + peer.id, upstream, peer, breaker, state: shown,
    words: peerWords(peer, breaker, shown),
    serves: peer.state === 'up' && !isOpen(breaker),
    past: history('peer\n' + upstream + '\n' + peer.id, counters, time),
  };
}

function verdict(upstream) {
  if (isOpen(upstream.breaker) || (upstream.peers.length && !upstream.serving)) return VERDICTS.broken;
  if (upstream.peers.some((p) => weigh(p.state.level) > 1) || !isClosed(upstream.breaker) || upstream.group.panic) return VERDICTS.degraded;
  return VERDICTS.healthy;
}

// How bad it is all in all: 3 where clients are refused, 2 where something is wrong that others make up for.
const worst = (problems) => (problems.some((p) => p.grave) ? 3 : problems.length ? 2 : 0);

// What is wrong, worst first and otherwise in the order of the configuration.
function readProblems(world, upstreams, time) {
  const found = [];
  const add = (level, shape, key, subject, words, more) => found.push({ level, shape, key, subject, words, ...more });
  for (const upstream of upstreams) {
    const { name, breaker, group } = upstream;
    const href = '#u-' + encodeURIComponent(name);
    if (upstream.peers.length && !upstream.serving) add(3, 'unavail', 'u\n' + name, name, 'no server takes traffic', { href, grave: true });
    if (group.panic) add(3, 'warn', 'p\n' + name, name, 'panic: too few servers are healthy, so all of them take traffic', { href, grave: true });
    if (!isClosed(breaker)) addBreaker(add, name, breaker, href);
    const late = upstream.peers.filter((p) => p.peer.overdue);
    if (late.length) add(2, 'warn', 'l\n' + name, name, `health checks are late: of ${late.length} ${late.length === 1 ? 'server' : 'servers'} nobody has heard for two intervals`, { href });
    for (const p of upstream.peers) {
      if (weigh(p.state.level) < 2) continue;
      add(p.state.level, p.state.shape, p.key, p.peer.server, p.words || p.state.word, { href, within: name, since: at(p.peer.downstart) || at(p.breaker && p.breaker.changed), peer: p });
    }
  }
  for (const [name, breaker] of entries(world['http/circuit_breakers'])) {
    if (!upstreams.some((u) => u.name === name) && breaker.state && !isClosed(breaker)) addBreaker(add, name, breaker, '#breakers');
    for (const [whose, b] of [[name, breaker], ...entries(breaker.peers).map(([, b]) => [name + ' ' + b.server, b])]) {
      if (b.override && !b.override.until) add(2, 'note', 'o\n' + whose, whose, `its breaker is ${heldWord(b.override)}, with no end; ${breakerWords(b)}`, { href: '#breakers' });
    }
  }
  limitProblems(add, world, time);
  return found.sort((a, b) => Boolean(b.grave) - Boolean(a.grave) || b.level - a.level);
}
function addBreaker(add, name, breaker, href) {
  const shown = breakerState(breaker);
  add(shown.level, shown.shape, 'b\n' + name, name.replace(/^route:/, 'route '), `circuit breaker ${shown.word}: ${breakerWords(breaker)}`, { href, since: at(breaker.changed), grave: isOpen(breaker) });
}
function limitProblems(add, world, time) {
  const lost = new Map();
  for (const [name, zone] of entries(world['http/rate_limits'])) {
    if (zone.redis && zone.redis_state === 'lost') lost.set(zone.redis, [...(lost.get(zone.redis) || []), name]);
    const keys = zone.keys || {};
    const evicted = history('evicted\n' + name, { evicted: keys.evicted }, time).grown('evicted');
    if (evicted > 0) add(2, 'warn', 'e\n' + name, name, `the zone is full: ${int(evicted)} keys put out in the last minutes, make it larger`, { href: '#limits' });
  }
  for (const [redis, zones] of lost) add(2, 'warn', 'r\n' + redis, 'redis ' + redis, `lost: ${zones.join(', ')} ${zones.length > 1 ? 'are' : 'is'} limited by what on_error says`, { href: '#limits' });
}
