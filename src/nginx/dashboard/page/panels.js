// The sections below the upstreams: limits, breakers, bans, zones and caches, events.

function section(id, count) {
  $(id).hidden = !count;
}

// Limits, with what passed and what was refused over five minutes.
function showLimits(words, time) {
  const zones = entries(world['http/rate_limits']);
  section('limits', zones.length);
  sync($('limit-list'), zones.filter(([name, zone]) => matches([name, zone.key, zone.redis].join(' '), words)).map(([name, zone]) => ({ name, zone, past: history('limit\n' + name, { passed: allowed(zone), refused: refused(zone) }, time) })), ({ name }) => name, limitCard);
}
const allowed = (zone) => (zone.passed || 0) + (zone.delayed || 0) + (zone.error_allowed || 0) + (zone.rejected_dry_run || 0) + (zone.delayed_dry_run || 0);
const refused = (zone) => (zone.rejected || 0) + (zone.error_denied || 0);

function limitCard({ name }) {
  const about = el('p', { class: 'sub' });
  const redis = badge('span', 'chip');
  const chart = limitChart();
  const top = el('span');
  const [passed, denied, delayed, keys] = ['', '', '', ''].map(() => el('dd'));
  const late = el('div', {}, el('dt', {}, 'delayed'), delayed);
  const node = el('article', { class: 'card limit' },
    el('div', { class: 'head' }, el('h3', {}, name), redis, el('div', { class: 'facts' }, top), el('button', { type: 'button', class: 'ghost', 'aria-haspopup': 'dialog', 'aria-label': 'One key of ' + name, onclick: () => keyActions(name) }, 'Key…')), about, chart,
    el('div', { class: 'axis', 'aria-hidden': 'true' }, el('span', {}, '5 minutes ago'), el('span', {}, 'now')),
    el('dl', { class: 'keys' }, el('div', {}, el('span', { class: 'box' }), el('dt', {}, 'allowed'), passed), el('div', {}, el('span', { class: 'box refused' }), el('dt', {}, 'refused'), denied), late, el('div', {}, el('dt', {}, 'keys'), keys)));
  node.update = ({ zone, past }) => {
    say(about, [zone.rate && zone.rate + (zone.burst ? ` burst ${zone.burst}` : ''), 'per ' + zone.key, zone.algorithm, zone.redis ? `sync=${zone.sync}` : 'on this host'].filter(Boolean).join(' · '));
    redis.hidden = !zone.redis;
    redis.show(zone.redis_state === 'lost' ? state('warn', 2, `${zone.redis} lost`) : state('up', 0, String(zone.redis)));
    const [p, r] = [past.rates('passed'), past.rates('refused')];
    const most = chart.show(p, r, `${name}: ${rate(past.rate('passed'))} allowed and ${rate(past.rate('refused'))} refused a second`);
    say(top, highest(p) ? `at most ${rate(most / 1.08)}/s` : '');
    say(passed, rate(past.rate('passed')) + '/s');
    say(denied, rate(past.rate('refused')) + '/s');
    put(passed, 'title', int(allowed(zone)) + ' since counting began');
    put(denied, 'title', int(refused(zone)) + ' since counting began');
    late.hidden = !zone.delayed;
    say(delayed, int(zone.delayed));
    const { used = 0, capacity = 0 } = zone.keys || {};
    say(keys, int(used) + (capacity ? ` of ${int(capacity)}` : ''));
  };
  return node;
}

// Breakers: those of upstreams and routes, and of servers where they are not closed.
function showBreakers(words) {
  const rows = [];
  for (const [name, breaker] of entries(world['http/circuit_breakers'])) {
    if (breaker.state) rows.push({ key: name, name, id: '', peer: '', breaker });
    for (const [id, b] of entries(breaker.peers)) if (b.state !== 'closed' || b.override) rows.push({ key: name + '\n' + id, name, id, peer: b.server, breaker: b });
  }
  section('breakers', rows.length);
  const list = $('breaker-list');
  if (!list.pinned) list.append((list.pinned = el('div', { class: 'breaker names', role: 'row' }, ...['State', 'Of', 'Window', 'Why and when', 'Refused', ''].map((text, i) => el('span', { role: 'columnheader', class: i === 4 ? 'n' : '' }, text || el('span', { class: 'hidden' }, 'Actions'))))));
  sync(list, rows.filter(({ name, peer, breaker }) => matches([name, peer, breaker.state, breaker.reason].join(' '), words)), ({ key }) => key, breakerRow);
}
function breakerRow({ name, id, peer }) {
  const shown = badge();
  const held = el('span', { class: 'chip' });
  const [window, why, refused] = [el('span', { role: 'cell', class: 'quiet' }), el('span', { class: 'words' }), el('span', { class: 'n', role: 'cell' })];
  const since = ago();
  const act = actionButton('Actions for the breaker of ' + (peer || name), () => breakerActions(name, id, peer, breakerState(node.item.breaker)));
  const node = el('div', { class: 'breaker', role: 'row' }, el('span', { class: 'st', role: 'cell' }, shown), el('span', { role: 'cell' }, el('bdi', {}, (peer ? `${peer} in ${name}` : name).replace(/^route:/, 'route ')), ' ', held), window, el('span', { role: 'cell' }, why, el('span', { class: 'quiet' }, since)), refused, el('span', { class: 'act', role: 'cell' }, act));
  node.update = (item) => {
    node.item = item;
    const { breaker } = item;
    shown.show(breakerState(breaker));
    const over = breaker.override;
    held.hidden = !over && !breaker.dry_run;
    put(held, 'data-level', 1);
    say(held, 'dry run');
    if (over) {
      put(held, 'data-level', over.until ? 1 : 2);
      say(held, heldWord(over) + (over.until ? ` for ${span((at(over.until) - now()) / 1000)}` : ', no end'));
    }
    const { seconds, calls, failures, slow } = breaker.window || {};
    say(window, seconds === undefined ? '' : `${int(failures)} failed${slow ? `, ${int(slow)} slow` : ''}${calls ? ` of ${int(calls)}` : ''} in ${int(seconds)} s${trips(breaker.trips_at)}`);
    countdown(why, breaker.state === 'closed' && !over ? '' : breakerWords(breaker));
    since.show(over ? at(over.since) : breaker.state === 'closed' ? NaN : at(breaker.changed));
    const { rejected = 0 } = breaker.counters || {};
    dim(refused, int(rejected));
  };
  return node;
}
const RULES = { failures: ' failures', consecutive: ' failures in a row', failure_rate: ' % failed', slow_rate: ' % slow' };
function trips(limits) {
  const parts = Object.entries(limits || {}).filter(([name, value]) => value && RULES[name]).map(([name, value]) => value + RULES[name]);
  return parts.length ? '; opens at ' + parts.join(' or ') : '';
}

// Bans, a list for each zone.
const MOST_BANS = 200;
function bansOf(zone) {
  return Array.isArray(zone.bans) ? list_of(zone.bans) : entries(zone.bans || zone).map(([key, ban]) => ({ key, ...ban }));
}
function showBans(words) {
  const zones = entries(world['http/bans']);
  section('bans', zones.length);
  sync($('ban-list'), zones.map(([name, zone]) => ({ name, bans: bansOf(zone).filter((ban) => matches([name, ban.key, ban.reason].join(' '), words)), zone })), ({ name }) => name, banCard);
}
function banCard({ name }) {
  const [count, refused] = [el('b'), el('b')];
  const about = el('p', { class: 'sub' });
  const rest = el('p', { class: 'more' });
  const body = el('tbody');
  const table = el('table', { class: 'list' }, el('thead', {}, el('tr', {}, ...['Key', 'Reason', 'Ends', ''].map((text, i) => el('th', { scope: 'col', class: i === 1 ? 'l' : '' }, text || el('span', { class: 'hidden' }, 'Actions'))))), body);
  const node = el('article', { class: 'card' }, el('div', { class: 'head' }, el('h3', {}, name), el('div', { class: 'facts' }, el('span', {}, count, ' banned'), el('span', {}, refused, ' refused')), el('button', { type: 'button', class: 'write', 'aria-haspopup': 'dialog', onclick: () => banAction(name) }, 'Ban…')), about, table, rest);
  node.update = ({ bans, zone }) => {
    say(count, int(zone.count ?? bans.length));
    say(refused, int(zone.refused));
    say(about, [zone.key && 'per ' + zone.key, zone.redis ? `shared through ${zone.redis}` : 'on this host'].filter(Boolean).join(' · '));
    rest.hidden = bans.length > 0 && bans.length <= MOST_BANS;
    say(rest, bans.length ? `And ${int(bans.length - MOST_BANS)} more: the filter finds them.` : zone.count ? 'None of them matches the filter.' : 'Nobody is banned.');
    table.hidden = !bans.length;
    sync(body, bans.slice(0, MOST_BANS), (ban) => ban.id ?? ban.key, ({ key, id }) => {
      const [why, ends] = [el('span', { class: 'words' }), inTime()];
      const row = el('tr', {}, el('td', { class: 'mono' }, key), el('td', { class: 'l' }, why), el('td', {}, ends), el('td', {}, actionButton('Lift the ban of ' + key, () => unbanAction(name, key, id ?? key))));
      row.update = (ban) => {
        say(why, [ban.dry_run && 'dry run', ban.reason, ban.times > 1 && `${ban.times} times in a row`, ban.source === 'redis' && 'by another gateway'].filter(Boolean).join(' · '));
        put(row, 'title', ban.since ? 'since ' + new Date(at(ban.since)).toLocaleString() : null);
        ends.show(at(ban.until || ban.expires));
      };
      return row;
    });
  };
  return node;
}

// Tables of numbers: zones, caches, the core's own limits, shared memory. One row for each thing, one cell for each column.
const TABLES = [
  { path: 'http/server_zones', title: 'Servers', columns: ['Requests/s', '4xx', '5xx', 'In', 'Out', 'Now'], cells: zoneCells },
  { path: 'http/location_zones', title: 'Locations', columns: ['Requests/s', '4xx', '5xx', 'In', 'Out'], cells: zoneCells },
  { path: 'http/caches', title: 'Caches', columns: ['Hit rate', 'Hits', 'Misses', 'Size', 'Of'], cells: cacheCells },
  { path: 'http/limit_reqs', title: 'limit_req', columns: ['Passed', 'Delayed', 'Rejected'], cells: (z) => [int(z.passed), int(z.delayed), int(z.rejected)] },
  { path: 'http/limit_conns', title: 'limit_conn', columns: ['Passed', 'Rejected'], cells: (z) => [int(z.passed), int(z.rejected)] },
  { path: 'slabs', title: 'Shared memory', columns: ['Pages used', 'Of', 'Full'], cells: slabCells, only: isSlab },
];
function zoneCells(zone, past) {
  const all = past.grown('total') || 1;
  const each = (name) => bytes(past.rate(name) || 0) + '/s';
  return [rate(past.rate('total')), share(past.grown('4xx') / all), share(past.grown('5xx') / all), each('received'), each('sent'), int(zone.processing)];
}
function cacheCells(cache) {
  const hits = ['hit', 'stale', 'updating', 'revalidated'].reduce((sum, name) => sum + ((cache[name] || {}).responses || 0), 0);
  const misses = ['miss', 'expired', 'bypass'].reduce((sum, name) => sum + ((cache[name] || {}).responses || 0), 0);
  return [share(hits / (hits + misses)), int(hits), int(misses), bytes(cache.size || 0), cache.max_size ? bytes(cache.max_size) : '–'];
}
// A zone that its owner took as a whole is always full, and says nothing.
function isSlab({ slots }) {
  return Object.values(slots || {}).some((slot) => slot.reqs > 0);
}
function slabCells({ pages = {} }) {
  const all = (pages.used || 0) + (pages.free || 0);
  return [int(pages.used), int(all), share(pages.used / all)];
}
function showZones(words, time) {
  const tables = TABLES.map((table) => ({ table, time, rows: entries(world[table.path]).filter(([name, of]) => matches(name, words) && (!table.only || table.only(of))) })).filter(({ rows }) => rows.length);
  section('zones', tables.length);
  sync($('zone-list'), tables, ({ table }) => table.path, ({ table }) => {
    const body = el('tbody');
    const card = el('article', { class: 'card scroll' }, el('table', { class: 'list' }, el('thead', {}, el('tr', {}, ...[table.title, ...table.columns].map((text) => el('th', { scope: 'col' }, text)))), body));
    card.update = ({ rows, time }) => sync(body, rows.map(([name, zone]) => ({ name, zone, time })), (item) => item.name, ({ name }) => {
      const cells = table.columns.map(() => el('td'));
      const row = el('tr', {}, el('td', { class: 'mono' }, name), ...cells);
      row.update = ({ zone, time }) => {
        const answers = zone.responses || {};
        const past = history(table.path + '\n' + name, { total: answers.total, '4xx': answers['4xx'], '5xx': answers['5xx'], received: zone.received, sent: zone.sent }, time);
        const texts = table.cells(zone, past);
        cells.forEach((cell, i) => say(cell, texts[i]));
      };
      return row;
    });
    return card;
  });
}

function showEvents() {
  const words = wanted();
  section('events', log.events.length);
  sync($('event-list'), log.events.filter((e) => matches([e.kind, e.upstream, e.peer, e.text, e.to].join(' '), words)), (e) => e.id + e.time, (e) => {
    const time = ago();
    const row = el('li', { class: 'event' }, time, el('span', { class: 'chip' }, e.kind), el('bdi', { class: 'mono' }, [e.upstream, e.peer].filter(Boolean).join(' ')), el('span', { class: 'said' }, e.text || [e.from, e.to].filter(Boolean).join(' → ')));
    row.update = () => time.show(at(e.time));
    return row;
  });
}
