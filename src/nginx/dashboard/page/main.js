// The page as a whole: the strip on top, what is wrong, the filter, colours, title and icon.

const SECTIONS = [['problems', 'Wrong'], ['upstreams', 'Upstreams'], ['limits', 'Limits'], ['breakers', 'Breakers'], ['bans', 'Bans'], ['zones', 'Zones'], ['events', 'Events']];
const MOST = 30;

// The words of the filter; a thing is shown when all of them are in it.
const wanted = () => $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text, words) => !words.length || words.every((word) => text.toLowerCase().includes(word));

function show() {
  const time = Date.now();
  const words = wanted();
  let [upstreams, problems] = [[], []];
  const parts = [
    () => (upstreams = readUpstreams(world, time)), () => showLimits(words, time), () => (problems = readProblems(world, upstreams, time)),
    () => showTiles(upstreams, problems, time), () => showProblems(problems, words), () => showUpstreams(upstreams, words), () => showBreakers(words),
    () => showBans(words), () => showZones(words, time), showEvents, showNav, () => showTitle(problems), () => forgetOld(time),
  ];
  // A document that nobody expected costs its own part of the page, not the others.
  for (const part of parts) {
    try {
      part();
    } catch (error) {
      console.error(error);
    }
  }
  put($('main'), 'aria-busy', 'false');
}

// The strip: what an operator asks first, and beside each the level it is at.
function readTiles(upstreams, problems, time) {
  const { nginx = {}, connections = {}, 'http/requests': requests = {} } = world;
  const past = history('requests', { total: requests && requests.total }, time);
  const count = (verdict) => upstreams.filter((u) => u.verdict === verdict).length;
  const [broken, degraded, healthy] = [VERDICTS.broken, VERDICTS.degraded, VERDICTS.healthy].map(count);
  const level = worst(problems);
  const tiles = [
    { name: 'Now', level, shape: ['up', 'up', 'warn', 'unavail'][level], value: ['All well', '', 'Needs a look', 'Trouble'][level], sub: problems.length ? `${int(problems.length)} ${problems.length > 1 ? 'things' : 'thing'} wrong` : 'nothing is wrong' },
    { name: 'Requests/s', value: rate(past.rate('total')), sub: int(requests && requests.total) + ' in all', past },
    { name: 'Connections', value: int(connections && connections.active), sub: `${int(connections && connections.idle)} idle, ${int(connections && connections.dropped)} dropped` },
  ];
  if (upstreams.length) {
    const parts = [[broken, 'broken'], [degraded, 'degraded'], [healthy, 'healthy']].filter(([n], i) => n || i === 2);
    const [[n, word], ...others] = parts;
    tiles.push({ name: 'Upstreams', level: broken ? 3 : degraded ? 2 : 0, value: int(n), sub: [word, ...others.map(([n, word]) => `${n} ${word}`)].join(', ') });
  }
  return tiles.concat(moreTiles(), { name: 'nginx', value: nginx ? String(nginx.version) : '–', sub: nginx && nginx.load_timestamp ? `loaded ${span((now() - at(nginx.load_timestamp)) / 1000)} ago` : '' });
}
function moreTiles() {
  const tiles = [];
  const breakers = entries(world['http/circuit_breakers']).flatMap(([, b]) => [b, ...Object.values(b.peers || {})]).filter((b) => b.state);
  if (breakers.length) {
    const open = breakers.filter(isOpen).length;
    const testing = breakers.filter((b) => b.state === 'half_open').length;
    tiles.push({ name: 'Breakers open', level: entries(world['http/circuit_breakers']).some(([, b]) => isOpen(b)) ? 3 : open || testing ? 2 : 0, value: int(open), sub: `${testing ? testing + ' testing, ' : ''}${breakers.length} in all` });
  }
  const zones = entries(world['http/rate_limits']);
  if (zones.length) {
    const each = zones.map(([name]) => histories.get('limit\n' + name)).filter(Boolean);
    tiles.push({ name: 'Limited', value: rate(each.reduce((sum, past) => sum + (past.rate('refused') || 0), 0)) + '/s', sub: `of ${rate(each.reduce((sum, past) => sum + (past.rate('refused') || 0) + (past.rate('passed') || 0), 0))}/s` });
  }
  const bans = entries(world['http/bans']);
  if (bans.length) tiles.push({ name: 'Bans', value: int(bans.reduce((sum, [, zone]) => sum + (zone.count ?? bansOf(zone).length), 0)), sub: bans.length > 1 ? `in ${bans.length} zones` : 'in ' + bans[0][0] });
  const shared = zones.filter(([, zone]) => zone.redis);
  if (shared.length) {
    const lost = [...new Set(shared.filter(([, zone]) => zone.redis_state === 'lost').map(([, zone]) => zone.redis))];
    tiles.push({ name: 'Redis', level: lost.length ? 2 : 0, shape: lost.length ? 'warn' : undefined, value: lost.length ? 'lost' : 'up', sub: lost.join(', ') || [...new Set(shared.map(([, zone]) => zone.redis))].join(', ') });
  }
  return tiles;
}
function showTiles(upstreams, problems, time) {
  sync($('tiles'), readTiles(upstreams, problems, time), ({ name }) => name, ({ name, past, shape }) => {
    const [value, sub] = [el('span'), el('dd', { class: 'sub' })];
    const mark = shape ? icon(shape) : null;
    const line = past ? sparkline() : null;
    const tile = el('div', { class: 'tile' }, el('dt', {}, name), el('dd', {}, mark, value), sub, line);
    tile.update = (now) => {
      put(tile, 'data-level', now.level);
      say(value, now.value);
      say(sub, now.sub);
      if (mark && now.shape) put(mark.firstChild, 'href', '#i-' + now.shape);
      if (mark) put(mark.parentNode, 'data-level', now.level);
      if (line) line.show(now.past.rates('total'), highest(now.past.rates('total')));
    };
    return tile;
  });
}

let announced = '';
function showProblems(problems, words) {
  const found = problems.filter((p) => matches([p.subject, p.within, p.words].join(' '), words));
  say($('n-problems'), problems.length || '');
  $('problem-list').hidden = !found.length;
  $('no-problems').hidden = found.length > 0;
  if (!$('no-problems').firstChild) $('no-problems').append(icon('up'), el('span'));
  say($('no-problems').lastChild, problems.length ? 'None of it matches the filter.' : 'Nothing. Every server takes traffic, no breaker is open.');
  const shown = found.slice(0, MOST);
  if (found.length > MOST) shown.push({ key: 'more', level: 1, shape: 'note', subject: '', words: `and ${int(found.length - MOST)} more: the filter finds them`, href: '#upstreams' });
  sync($('problem-list'), shown, ({ key }) => key, problemRow);
  const text = problems.length ? `${problems.length} wrong. ${problems[0].subject}: ${problems[0].words}`.replace(/[\d.]+ ?(s|min)\b/g, '').slice(0, 200) : 'Nothing is wrong.';
  if (text !== announced) say($('announce'), (announced = text));
}
function problemRow() {
  const [shape, subject, within, words, since] = [icon('unknown'), el('a', { class: 'subject' }), el('span', { class: 'quiet' }), el('span', { class: 'words' }), ago()];
  const act = actionButton('', () => serverActions(row.item.peer));
  const row = el('li', { class: 'problem' }, shape, el('span', {}, subject, ' ', within), words, el('span', { class: 'since' }, since), act);
  row.update = (problem) => {
    row.item = problem;
    put(row, 'data-level', problem.level);
    put(shape.firstChild, 'href', '#i-' + problem.shape);
    say(subject, problem.subject);
    say(within, problem.within ? `in ${problem.within}` : '');
    put(subject, 'href', problem.href);
    countdown(words, problem.words);
    since.show(problem.since);
    act.classList.toggle('none', !problem.peer);
    if (problem.peer) put(act, 'aria-label', 'Actions for ' + problem.subject);
  };
  return row;
}

function showNav() {
  sync($('nav'), SECTIONS.filter(([id]) => !$(id).hidden), ([id]) => id, ([id, text]) => {
    const link = el('a', { href: '#' + id }, text);
    link.update = () => {};
    return link;
  });
}

// The worst state in the title and the icon, for a page in one of many tabs.
function showTitle(problems) {
  const level = link.state !== 'live' ? 1 : worst(problems);
  document.title = ['', '? ', '△ ', '▲ '][level] + (level > 1 ? `${problems.length} wrong · ` : '') + 'Sluice ' + location.host;
  const shapes = ['%3Ccircle cx="8" cy="8" r="6" fill="%230a7d5c"/%3E', '%3Ccircle cx="8" cy="8" r="5" fill="none" stroke="%237b8794" stroke-width="3"/%3E', '%3Cpath d="M8 2l6 11H2z" fill="none" stroke="%23c98a12" stroke-width="2.4"/%3E', '%3Cpath d="M8 1l7 13H1z" fill="%23d9480f"/%3E'];
  put($('favicon'), 'href', `data:image/svg+xml,%3Csvg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"%3E${shapes[level]}%3C/svg%3E`);
}

// How fresh it all is. What was read last stays, greyed, while the API does not answer.
function showLink() {
  const old = (now() - link.time) / 1000;
  const live = link.state === 'live';
  const [level, text] = document.hidden ? [1, 'paused'] : live ? [0, 'live'] : link.state === 'connecting' ? [1, 'connecting'] : [3, Number.isNaN(old) ? 'no answer' : `${span(old)} old`];
  put($('pulse'), 'data-level', level);
  say($('pulse-text'), text);
  put(document.body, 'data-link', link.state);
  $('main').classList.toggle('old', !live && link.state !== 'connecting');
  $('notice').hidden = live || link.state === 'connecting';
  if (!live) {
    const why = link.status === 401 ? 'The API wants to know who you are. Load this page again to sign in.' : link.status === 403 ? 'The API does not let you read it from here.' : link.status === 404 || link.error === 'SyntaxError' ? `There is no API at ${BASE}.` : 'The API does not answer.';
    say($('notice'), why + (Number.isNaN(old) || link.state === 'connecting' ? '' : ` What you see is ${span(old)} old.`));
    showTitle([]);
  }
}

// Colours as the system has them, or light, or dark.
const THEMES = ['auto', 'light', 'dark'];
function theme(name) {
  const chosen = THEMES.includes(name) ? name : 'auto';
  put(document.documentElement, 'data-theme', chosen === 'auto' ? null : chosen);
  say($('theme'), { auto: 'Auto', light: 'Light', dark: 'Dark' }[chosen]);
  put($('theme'), 'aria-label', 'Colours: ' + { auto: 'as the system', light: 'light', dark: 'dark' }[chosen]);
  return chosen;
}
const remembered = {
  get theme() {
    try {
      return localStorage.getItem('sluice.theme');
    } catch {
      return null; // storage is switched off
    }
  },
  set theme(name) {
    try {
      localStorage.setItem('sluice.theme', name);
    } catch {
      // Not remembered, then.
    }
  },
};

let themed = theme(remembered.theme);
$('theme').addEventListener('click', () => (remembered.theme = themed = theme(THEMES[(THEMES.indexOf(themed) + 1) % THEMES.length])));
$('filter').addEventListener('input', () => link.state !== 'connecting' && show());
$('form').addEventListener('submit', confirmed);
// Enter on a choice chooses; it takes the button, or Enter in a field, to do it.
$('choices').addEventListener('keydown', (event) => event.key === 'Enter' && event.preventDefault());
$('cancel').addEventListener('click', () => $('dialog').close());
$('copy').addEventListener('click', copy);
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select, dialog');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $('filter').focus();
  } else if (event.key === 'Escape' && event.target === $('filter')) {
    $('filter').value = '';
    $('filter').blur();
    show();
  }
});
say($('host'), location.host);
setInterval(() => {
  tick();
  if (link.state !== 'live') showLink();
}, 1000);
round();
listen();
