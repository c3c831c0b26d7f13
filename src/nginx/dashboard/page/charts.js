// What was when: counters sampled every five seconds for five minutes, in this page only, and the small charts of them.

const STEP = 5000;
const SLOTS = 61;

// The last five minutes of some counters of one thing: as they were at the first look in each slot, and as they are now.
class History {
  constructor(names) {
    this.slot = -1;
    this.time = 0;
    this.now = {};
    this.times = new Float64Array(SLOTS);
    this.values = Object.fromEntries(names.map((name) => [name, new Float64Array(SLOTS)]));
  }

  // Takes the counters as they are now. One that has gone back was reset: what was before is forgotten.
  add(all, time) {
    const counters = Object.fromEntries(Object.keys(this.values).map((name) => [name, Number(all[name]) || 0]));
    const slot = Math.floor(time / STEP);
    if (Object.keys(counters).some((name) => counters[name] < this.now[name]) || slot - this.slot > SLOTS) {
      this.times.fill(0);
      this.slot = -1;
    }
    this.time = time;
    this.now = counters;
    if (slot === this.slot) return;
    if (this.slot >= 0) for (let gone = this.slot + 1; gone < slot; gone++) this.times[gone % SLOTS] = 0;
    this.slot = slot;
    this.times[slot % SLOTS] = time;
    for (const name in this.values) this.values[name][slot % SLOTS] = counters[name];
  }

  // Index of the oldest sample of the last `slots`.
  oldest(slots) {
    for (let slot = this.slot - Math.min(slots, SLOTS - 1); slot < this.slot; slot++) if (slot >= 0 && this.times[slot % SLOTS]) return slot % SLOTS;
    return this.slot % SLOTS;
  }

  // By how much a counter grew in the last `slots`.
  grown(name, slots = SLOTS) {
    return this.slot < 0 ? 0 : (this.now[name] || 0) - this.values[name][this.oldest(slots)];
  }

  // Per second, over the last ten seconds or so; null until there are two looks.
  rate(name) {
    const seconds = (this.time - this.times[this.oldest(2)]) / 1000;
    return seconds > 0 ? this.grown(name, 2) / seconds : null;
  }

  // Rates per second, the oldest first; NaN where nothing was seen.
  rates(name) {
    const rates = [];
    for (let slot = Math.max(0, this.slot - SLOTS + 2); slot <= this.slot; slot++) {
      const [a, b] = [slot % SLOTS, (slot + 1) % SLOTS];
      const [time, value] = slot === this.slot ? [this.time, this.now[name] || 0] : [this.times[b], this.values[name][b]];
      const seconds = (time - this.times[a]) / 1000;
      rates.push(this.times[a] && seconds > 0 ? (value - this.values[name][a]) / seconds : NaN);
    }
    return rates;
  }
}

const histories = new Map();
function history(key, counters, time) {
  let kept = histories.get(key);
  if (!kept) histories.set(key, (kept = new History(Object.keys(counters))));
  kept.add(counters, time);
  kept.used = time;
  return kept;
}
function forgetOld(time) {
  for (const [key, kept] of histories) if (time - kept.used > 60000) histories.delete(key);
}

// Histograms of latency every thirty seconds, so that a percentile speaks of the last minutes and not of all time.
const histograms = new Map();
function percentile(key, hist, part, time) {
  if (!isObject(hist) || !hist.count || !isObject(hist.buckets)) return null;
  const bounds = Object.keys(hist.buckets).map((b) => (b === 'inf' ? Infinity : Number(b))).sort((a, b) => a - b);
  const counts = bounds.map((b) => hist.buckets[b === Infinity ? 'inf' : b]);
  const kept = histograms.get(key) || [];
  if (!kept.length || time - kept[kept.length - 1].time > 30000) kept.push({ time, counts });
  while (kept.length > 1 && (time - kept[0].time > 300000 || kept[0].counts.some((n, i) => n > counts[i]))) kept.shift();
  histograms.set(key, kept);
  const recent = counts.map((n, i) => n - kept[0].counts[i]);
  return quantile(bounds, recent.some((n) => n > 0) && recent.every((n) => n >= 0) ? recent : counts, part);
}
function quantile(bounds, counts, part) {
  let rest = counts.reduce((sum, n) => sum + n, 0) * part;
  for (let i = 0; i < counts.length; i++) {
    const low = i ? bounds[i - 1] : 0;
    if (rest <= counts[i] && counts[i] > 0) return bounds[i] === Infinity ? low : low + ((bounds[i] - low) * rest) / counts[i];
    rest -= counts[i];
  }
  return null;
}

// The path through values, broken where there is none; with `floor`, closed along the bottom.
function trace(values, top, height, floor) {
  const step = 100 / (values.length - 1);
  const y = (v) => (height - (v / top) * height).toFixed(1);
  let path = '';
  let open = -1;
  values.forEach((v, i) => {
    const x = (i * step).toFixed(1);
    if (Number.isNaN(v)) open = -1;
    else {
      if (open < 0) [open, path] = [i, path + (floor ? `M${x} ${height}V${y(v)}` : `M${x} ${y(v)}`)];
      else path += `L${x} ${y(v)}`;
      if (floor && (i === values.length - 1 || Number.isNaN(values[i + 1]))) path += `V${height}Z`;
    }
  });
  return path;
}
const highest = (values) => values.reduce((most, v) => (v > most ? v : most), 0);

// A line of requests per second, without axes.
function sparkline() {
  const area = el('path', { class: 'area' });
  const line = el('path', { class: 'line' });
  const node = el('svg', { class: 'spark', viewBox: '0 0 100 24', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, line);
  node.show = (values, top) => {
    put(area, 'd', trace(values, top || 1, 23, true));
    put(line, 'd', trace(values, top || 1, 23, false));
  };
  return node;
}

// What passed and what was refused, per second, the refused on top.
function limitChart() {
  const parts = ['passed', 'passed-line', 'refused'].map((name) => el('path', { class: name }));
  const node = el('svg', { class: 'chart', viewBox: '0 0 100 78', preserveAspectRatio: 'none', role: 'img' }, ...parts);
  node.show = (passed, refused, label) => {
    const all = passed.map((v, i) => v + refused[i]);
    const top = Math.max(1, highest(all) * 1.08);
    put(parts[0], 'd', trace(passed, top, 78, true));
    put(parts[1], 'd', trace(passed, top, 78, false));
    put(parts[2], 'd', between(passed, all, top, 78));
    put(node, 'aria-label', label);
    return top;
  };
  return node;
}
// The band between two lines.
function between(low, high, top, height) {
  const step = 100 / (low.length - 1);
  const y = (v) => (height - (v / top) * height).toFixed(1);
  let path = '';
  for (let i = 1; i < low.length; i++) {
    if (Number.isNaN(low[i - 1]) || Number.isNaN(low[i]) || (high[i] <= low[i] && high[i - 1] <= low[i - 1])) continue;
    const [a, b] = [((i - 1) * step).toFixed(1), (i * step).toFixed(1)];
    path += `M${a} ${y(low[i - 1])}V${y(high[i - 1])}L${b} ${y(high[i])}V${y(low[i])}Z`;
  }
  return path;
}
