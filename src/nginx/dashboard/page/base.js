// Elements, and how numbers and times are said. Data only ever becomes text nodes and attribute values, never markup.

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const DRAWN = new Set(['svg', 'use', 'path', 'rect']);

// An element with attributes, `on…` listeners and children. A child that is no node becomes text.
function el(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else put(node, name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (typeof child === 'object' ? child : plain(child))));
  return node;
}

// Text in which nothing is hidden: what would turn the direction of the line or is not printed is shown by its number.
const plain = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'));

// Text, written only when it is another: what does not change does not flicker, and selections live on.
function say(node, text) {
  text = text === null || text === undefined ? '' : String(text);
  if (node.said === text) return;
  node.said = text;
  node.textContent = plain(text);
}

function put(node, name, value) {
  const text = value === true ? '' : value === false || value === null || value === undefined ? null : String(value);
  if (node.getAttribute(name) === text) return;
  if (text === null) node.removeAttribute(name);
  else node.setAttribute(name, text);
}

function icon(shape) {
  return el('svg', { class: 'i', 'aria-hidden': 'true' }, el('use', { href: '#i-' + shape }));
}

// A shape with a word: how a state looks everywhere.
function badge(kind = 'span', name = 'state') {
  const shape = icon('unknown');
  const word = el('span');
  const node = el(kind, { class: name }, shape, word);
  node.show = (state) => {
    put(node, 'data-level', state.level);
    put(shape.firstChild, 'href', '#i-' + state.shape);
    say(word, state.word);
  };
  return node;
}

// Makes the children of `parent` those of `items`, in their order; a child stays the same element as long as its key is there.
function sync(parent, items, keyOf, make) {
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  const kept = parent.kept || (parent.kept = new Map());
  // What goes, goes first: so what stays is not moved, and keeps the focus.
  for (const [key, child] of kept) if (!wanted.has(key) && kept.delete(key)) child.remove();
  let at = parent.pinned ? parent.pinned.nextSibling : parent.firstChild;
  for (const [key, item] of wanted) {
    const child = kept.get(key) || make(item);
    kept.set(key, child);
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
    child.update(item);
  }
}

const whole = new Intl.NumberFormat('en');
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const int = (n) => (n >= 100000 ? compact : whole).format(Math.round(n || 0));
const rate = (n) => (!(n > 0) ? '0' : n < 0.05 ? '<0.1' : n < 10 ? n.toFixed(1) : int(n));
const share = (n) => (!(n > 0) ? '0' : n < 0.001 ? '<0.1 %' : n < 0.0995 ? (n * 100).toFixed(1) + ' %' : Math.round(n * 100) + ' %');
const millis = (n) => (n >= 9995 ? Math.round(n / 1000) + ' s' : n >= 995 ? (n / 1000).toFixed(1) + ' s' : Math.round(n) + ' ms');
function bytes(n) {
  let unit = 0;
  for (; n >= 1000 && unit < 4; unit++) n /= 1024;
  return (unit && n < 10 ? n.toFixed(1) : Math.round(n)) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit];
}
function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return s + ' s';
  if (s < 7200) return Math.floor(s / 60) + ' min';
  return s < 172800 ? Math.floor(s / 3600) + ' h' : Math.floor(s / 86400) + ' d';
}

// The API's clock minus ours, in milliseconds: times are told by the gateway's clock.
let skew = 0;
const now = () => Date.now() + skew;
const at = (iso) => (iso ? Date.parse(iso) : NaN);

// Times that go on by themselves, once a second: "3 s ago", "in 12 s".
const ticking = new Set();
function clock(tag, text) {
  const node = el(tag);
  node.tick = () => {
    if (Number.isFinite(node.when)) say(node, text((node.when - now()) / 1000));
  };
  node.show = (when) => {
    node.when = when;
    put(node, 'title', Number.isFinite(when) ? new Date(when).toLocaleString() : null);
    if (Number.isFinite(when)) ticking.add(node);
    else say(node, '');
    node.tick();
  };
  return node;
}
function tick() {
  for (const node of ticking) {
    if (node.isConnected) node.tick();
    else if (node.seen) ticking.delete(node);
    node.seen = node.isConnected;
  }
}
const ago = (tag = 'time') => clock(tag, (s) => (s > -1.5 ? 'now' : span(-s) + ' ago'));
const inTime = (tag = 'span') => clock(tag, (s) => (s <= 0.5 ? 'now' : 'in ' + span(s)));

// Words that may say "again in 12 s": that number goes on counting down from when the words were read.
function countdown(node, words) {
  const found = /\bagain in (\d+(?:\.\d+)?) s\b/.exec(words);
  const until = found ? now() + found[1] * 1000 : NaN;
  // The API rounds: a deadline that moved by less than two seconds is the same one.
  if (!(Math.abs(node.when - until) < 2000)) node.when = until;
  node.tick = () => {
    const left = Math.max(0, (node.when - now()) / 1000);
    say(node, found ? words.slice(0, found.index) + 'again ' + (left < 0.5 ? 'now' : 'in ' + span(left)) + words.slice(found.index + found[0].length) : words);
  };
  if (found) ticking.add(node);
  node.tick();
}
