// A card for each upstream, a row for each of its servers. Rows keep their place and their elements; large groups show what is
// to be said of them first, and rows far from the screen are neither built nor kept up to date.

const FEW = 24;
const unfolded = new Set();
const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    target.near = isIntersecting;
    if (isIntersecting) target.paint();
  }
}, { rootMargin: '500px' });

const COLUMNS = [['State'], ['Server'], ['Share', 'n'], ['Requests/s', 'n'], ['Active', 'n'], ['4xx', 'n'], ['5xx', 'n'], ['p95', 'n'], ['Last check', 'check'], ['5 minutes', 'trend'], ['']];

function showUpstreams(upstreams, words) {
  $('upstreams').hidden = !upstreams.length;
  const shown = upstreams.map((upstream) => ({ upstream, peers: matching(upstream, words) })).filter(({ upstream, peers }) => peers.length || matches(upstream.name, words));
  sync($('cards'), shown, ({ upstream }) => upstream.name, upstreamCard);
}
function matching(upstream, words) {
  return words.length ? upstream.peers.filter((p) => matches([upstream.name, p.peer.server, p.peer.name, p.state.word, p.words].join(' '), words)) : upstream.peers;
}

function upstreamCard({ upstream: { name } }) {
  const verdict = badge();
  const breaker = badge('span', 'chip');
  const panic = el('span', { class: 'chip', 'data-level': 3 }, 'panic');
  const meter = el('span', { class: 'meter', 'aria-hidden': 'true' });
  const [serving, requests, errors, kept] = ['', '', '', ''].map(() => el('b'));
  const all = [el('span', {}, serving), el('span', {}, requests, ' req/s'), el('span', {}, errors, ' 5xx'), el('span', {}, kept, ' kept open')];
  const more = el('button', { type: 'button', class: 'ghost', onclick: toggle });
  const names = el('div', { class: 'row names', role: 'row' }, ...COLUMNS.map(([text, kind]) => el('span', { role: 'columnheader', class: kind || '' }, text || el('span', { class: 'hidden' }, 'Actions'))));
  const rows = el('div', { role: 'table', 'aria-label': 'Servers of ' + name }, names);
  rows.pinned = names;
  const foot = el('p', { class: 'more' }, more);
  const act = actionButton('Actions for the breaker of ' + name, () => breakerActions(name, '', '', breakerState(node.item.upstream.breaker)));
  const node = el('article', { class: 'card upstream', id: 'u-' + encodeURIComponent(name), tabindex: -1 },
    el('div', { class: 'head' }, verdict, el('h3', {}, name), breaker, panic, el('div', { class: 'facts' }, meter, ...all), act), rows, foot);

  function toggle() {
    if (!unfolded.delete(name)) unfolded.add(name);
    node.update(node.item);
  }
  node.update = (item) => {
    node.item = item;
    const { upstream, peers } = item;
    verdict.show(upstream.verdict);
    panic.hidden = !upstream.group.panic;
    breaker.hidden = act.hidden = !upstream.breaker;
    if (upstream.breaker) breaker.show({ ...breakerState(upstream.breaker), word: 'breaker ' + breakerState(upstream.breaker).word });
    say(serving, `${upstream.serving} of ${upstream.peers.length}`);
    put(serving, 'title', 'servers that take traffic');
    const sum = (name, slots) => upstream.peers.reduce((sum, p) => sum + (slots ? p.past.grown(name) : p.past.rate(name) || 0), 0);
    say(requests, rate(sum('requests')));
    say(errors, share(sum('5xx', true) / sum('total', true)));
    say(kept, int(upstream.group.keepalive));
    all[3].hidden = !upstream.group.keepalive;
    showMeter(meter, upstream.peers);
    const large = peers.length > FEW;
    const folded = large && !unfolded.has(name);
    const rowsOf = folded ? peers.filter((p) => weigh(p.state.level) > 0).slice(0, FEW) : peers;
    const top = highest(rowsOf.length > FEW ? [] : rowsOf.flatMap((p) => p.past.rates('requests')));
    names.hidden = !rowsOf.length;
    foot.hidden = !large;
    put(more, 'aria-expanded', !folded ? 'true' : 'false');
    say(more, folded ? `Show all ${int(peers.length)} servers` : 'Show only those with something to say');
    sync(rows, rowsOf.map((p) => ({ p, top, lazy: rowsOf.length > 2 * FEW })), ({ p }) => p.key, serverRow);
  };
  return node;
}

// A piece for each server, or for each level where there are many.
function showMeter(meter, peers) {
  let parts = peers.map((p) => [p.state.level, 1]);
  if (parts.length > FEW) {
    const counts = new Map([[3, 0], [2, 0], [1, 0], [0, 0], ['off', 0]]);
    for (const [level] of parts) counts.set(level, counts.get(level) + 1);
    parts = [...counts].filter(([, count]) => count);
  }
  while (meter.children.length > parts.length) meter.lastChild.remove();
  while (meter.children.length < parts.length) meter.append(el('span'));
  parts.forEach(([level, count], i) => {
    put(meter.children[i], 'data-level', level);
    meter.children[i].style.flex = `${count} 1 ${count > 1 ? '3px' : '0'}`;
  });
}

function serverRow() {
  const node = el('div', { class: 'row', role: 'row' });
  let cells = null;
  node.update = (item) => {
    node.item = item;
    put(node, 'data-level', item.p.state.level);
    if (node.near === undefined) {
      near.observe(node);
      node.near = !item.lazy;
    }
    if (node.near) node.paint();
  };
  node.paint = () => {
    if (!cells) cells = serverCells(node);
    if (node.isConnected || !node.item.lazy) paintServer(cells, node.item);
  };
  return node;
}

function serverCells(row) {
  const number = (name) => el('span', { class: 'n', role: 'cell', 'data-name': name });
  const cells = {
    state: badge(), server: el('span', { class: 'mono' }), mark: el('span', { class: 'chip' }), words: el('span', { class: 'words', role: 'cell' }),
    share: number('share'), requests: number('req/s'), active: number('active'), e4: number('4xx'), e5: number('5xx'), p95: number('p95'),
    check: el('span', { class: 'check quiet', role: 'cell' }), line: sparkline(),
  };
  const open = () => serverActions(row.item.p);
  row.append(
    el('span', { class: 'st', role: 'cell' }, cells.state), el('span', { class: 'server', role: 'cell' }, cells.server, ' ', cells.mark),
    cells.share, cells.requests, cells.active, cells.e4, cells.e5, cells.p95, cells.check,
    el('span', { class: 'trend', role: 'cell' }, cells.line), el('span', { class: 'act', role: 'cell' }, (cells.act = actionButton('Actions', open))), cells.words);
  return cells;
}

function paintServer(cells, { p, top }) {
  const { peer, past } = p;
  cells.state.show(p.state);
  say(cells.server, peer.server);
  put(cells.server, 'title', peer.name && peer.name !== peer.server ? peer.name : null);
  put(cells.act, 'aria-label', 'Actions for ' + peer.server);
  cells.mark.hidden = !peer.backup;
  say(cells.mark, peer.backup ? 'backup' : '');
  countdown(cells.words, p.words);
  put(cells.words, 'title', p.words.length > 160 ? p.words.slice(0, 2000) : null);
  say(cells.share, p.serves && p.of ? share(peer.weight / p.of) : '0');
  put(cells.share, 'title', `weight ${peer.weight}` + (p.of ? ` of ${p.of}` : ''));
  dim(cells.requests, rate(past.rate('requests')));
  dim(cells.active, int(peer.active) + (peer.max_conns ? '/' + int(peer.max_conns) : ''));
  failed(cells.e4, p, '4xx');
  failed(cells.e5, p, '5xx');
  const p95 = percentile(p.key, peer.response_time_hist, 0.95, now());
  const average = peer.response_time || peer.header_time;
  say(cells.p95, p95 !== null ? millis(p95) : average ? millis(average) : '–');
  cells.p95.classList.toggle('zero', p95 === null);
  put(cells.p95, 'title', `${p95 === null ? 'no histogram; ' : ''}on average ${millis(average || 0)}`);
  const checks = peer.health_checks || {};
  say(cells.check, !checks.checks ? '–' : `${checks.last_passed ? 'passed' : 'failed'}`);
  put(cells.check, 'title', checks.checks ? `${int(checks.checks)} checks, ${int(checks.fails)} failed, ${int(checks.unhealthy)} times unhealthy` : 'not checked');
  cells.line.show(past.rates('requests'), top || highest(past.rates('requests')));
}
function dim(cell, text) {
  say(cell, text);
  cell.classList.toggle('zero', text === '0');
}
// The share of answers of a class: of the last minutes, or since counting began while nothing is known of those.
function failed(cell, { peer, past }, name) {
  const answers = peer.responses || {};
  const recent = past.grown('total');
  dim(cell, share(recent > 0 ? past.grown(name) / recent : answers.total ? answers[name] / answers.total : 0));
  put(cell, 'title', `${int(answers[name])} of ${int(answers.total)} answers since counting began`);
}
