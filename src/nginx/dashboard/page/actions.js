// What an operator can do: always a dialog that says it in words, asks for a reason and a time where the API takes them, and
// shows the same as a line for the shell.

// A part of a path. Names may hold anything; what URL parsers would take for "." or ".." cannot be said in a path at all.
function segment(name) {
  const text = String(name).toWellFormed();
  if (text === '.' || text === '..') throw new Refused(0, `a path cannot name "${text}"`);
  return encodeURIComponent(text).replace(/['()*!]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase());
}
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
// JSON in ASCII: nothing in the line can hide what it does.
const ascii = (value) => JSON.stringify(value).replace(/[^ -~]/g, (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'));
function shellLine({ method, path, body }) {
  const data = body === undefined ? '' : ` -H 'Content-Type: application/json' -d ${quoted(ascii(body))}`;
  return `curl -X ${method}${data} ${quoted(location.origin + ROOT + path)}`;
}

const REASON = { name: 'reason', label: 'Reason', full: true, placeholder: 'shown in the event log', maxlength: 200 };
const TTL = { name: 'ttl', label: 'For how long', placeholder: 'such as 10m, 2h; empty: no end', value: '10m' };
// What is written without a body says why in the address.
const because = (path, reason) => path + (reason ? '?reason=' + encodeURIComponent(reason.toWellFormed()).replace(/['()*!]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase()) : '');
// The fields that were filled in, as a body.
function filled(values, names) {
  return Object.fromEntries(names.filter((name) => values[name] !== undefined && values[name] !== '').map((name) => [name, values[name]]));
}

function serverActions(p) {
  const { upstream, peer } = p;
  const path = `http/upstreams/${segment(upstream)}/servers/${peer.id}`;
  const patch = (body) => ({ reason }) => ({ method: 'PATCH', path: because(path, reason), body });
  const up = { label: 'Bring up', verb: 'Bring up', about: 'It takes new requests again, as far as its checks and its breaker let it.', fields: [REASON], call: patch(peer.state === 'draining' ? { drain: false } : { down: false }) };
  const drain = { label: 'Drain', verb: 'Drain', about: 'It gets no new clients; those bound to it by sticky stay.', fields: [REASON], call: patch({ drain: true }) };
  const down = { label: 'Take down', verb: 'Take down', danger: true, about: 'It gets no new requests at all. Those under way are finished.', fields: [REASON], call: patch({ down: true }) };
  const weight = { label: 'Weight', verb: 'Set the weight', about: 'Its share of requests, beside the weights of the other servers.', fields: [{ name: 'weight', label: 'Weight', type: 'number', min: 1, max: 65535, value: peer.weight }, REASON], call: (values) => patch({ weight: number(values.weight, 1, 65535) })(values) };
  const off = peer.state === 'down' || peer.state === 'draining';
  ask({ title: peer.server, about: `Server of ${upstream}, now ${p.state.word}. What you set here stays over a reload.`, choices: (off ? [up, peer.state === 'down' ? drain : down] : [drain, down]).concat(weight) });
}
function number(text, least, most) {
  const n = Number(text);
  if (!Number.isInteger(n) || n < least || n > most) throw new Refused(0, `a whole number from ${least} to ${most} is needed`);
  return n;
}

function breakerActions(name, id, peer, shown) {
  const path = `http/circuit_breakers/${segment(name)}` + (id === '' ? '' : '/' + segment(id));
  const force = (override, label, about, danger) => ({
    label, verb: label, about, danger, fields: [TTL, REASON],
    call: (values) => ({ method: 'PATCH', path, body: { override, ...filled(values, ['ttl', 'reason']) } }),
  });
  ask({
    title: `Breaker of ${peer || name.replace(/^route:/, 'route ')}`, about: `Now ${shown.word}.`, choices: [
      force('open', 'Hold open', 'Nothing gets through until you or the time let go.', true),
      force('closed', 'Hold closed', 'Everything gets through, whatever fails.'),
      force('dry_run', 'Dry run', 'It goes on counting and saying what it would do, and refuses nothing.'),
      { label: 'Let go', verb: 'Let go', about: 'It decides by itself again.', call: () => ({ method: 'PATCH', path, body: { override: 'none' } }) },
      { label: 'Reset', verb: 'Reset', about: 'Closed, and what was counted is forgotten.', call: () => ({ method: 'POST', path: path + '/reset', body: {} }) },
    ],
  });
}

function banAction(zone) {
  ask({
    title: `Ban in ${zone}`, about: 'All gateways that share this zone refuse the client.', choices: [{
      label: 'Ban', verb: 'Ban', danger: true,
      fields: [{ name: 'key', label: 'Key', full: true, placeholder: 'as the zone counts it, such as 203.0.113.9', maxlength: 300 }, { name: 'duration', label: 'For how long', value: '10m', placeholder: 'such as 10m, 2h' }, REASON],
      call(values) {
        if (!values.key) throw new Refused(0, 'a key is needed');
        return { method: 'POST', path: 'http/bans/' + segment(zone), body: filled(values, ['key', 'duration', 'reason']) };
      },
    }],
  });
}
function unbanAction(zone, key, id) {
  ask({ title: `Lift the ban of ${key}`, about: `It may come again at once, at all gateways that share ${zone}.`, choices: [{ label: 'Lift', verb: 'Lift the ban', call: () => ({ method: 'DELETE', path: `http/bans/${segment(zone)}/${segment(id)}` }) }] });
}
function keyActions(zone) {
  const fields = [{ name: 'key', label: 'Key', full: true, placeholder: 'as the zone counts it', maxlength: 300 }];
  const on = (method) => ({ key }) => {
    if (!key) throw new Refused(0, 'a key is needed');
    return { method, path: `http/rate_limits/${segment(zone)}/keys/${segment(key)}` };
  };
  const look = { label: 'Look up', verb: 'Look up', about: 'Where it stands now, and why it is limited.', fields, call: on('GET'), found: keyWords };
  const reset = { label: 'Reset', verb: 'Reset', about: 'It starts over with all it may have, here and in Redis.', fields, call: on('DELETE') };
  ask({ title: `One key of ${zone}`, choices: link.writable ? [look, reset] : [look] });
}
function keyWords(key) {
  return [key.limited ? 'It is limited' : 'It is not limited', `${int(key.remaining)} of ${int(key.limit)} left`, key.limited && `may come again in ${key.retry_after} s`, key.why].filter(Boolean).join('; ');
}

// The dialog: one for everything, so that it always looks the same.
let asked = null;
function ask(what) {
  asked = { ...what, chosen: what.choices[0] };
  say($('dialog-title'), what.title);
  $('choices').replaceChildren($('choices').firstElementChild, ...what.choices.map((choice, i) => {
    const input = el('input', { type: 'radio', name: 'choice', value: i, onchange: () => choose(choice) });
    input.checked = i === 0;
    return el('label', {}, input, choice.label);
  }));
  $('choices').hidden = what.choices.length < 2;
  choose(asked.chosen);
  $('dialog').showModal();
  const first = what.choices.length < 2 ? $('fields').querySelector('input') : $('choices').querySelector('input');
  (first || $('cancel')).focus();
}
function choose(choice) {
  asked.chosen = choice;
  $('fields').replaceChildren(...(choice.fields || []).map(({ label, full, ...rest }) => el('label', { class: full ? 'full' : '' }, label, el('input', { type: 'text', autocomplete: 'off', ...rest, oninput: preview }))));
  say($('dialog-about'), [asked.about, choice.about].filter(Boolean).join(' '));
  say($('confirm'), choice.verb);
  put($('confirm'), 'class', 'primary' + (choice.danger ? ' danger' : ''));
  preview();
}
function order() {
  return asked.chosen.call(Object.fromEntries([...$('fields').querySelectorAll('input')].map((input) => [input.name, input.value.trim()])));
}
function preview() {
  say($('refused'), '');
  say($('found'), '');
  try {
    $('curl').value = shellLine(order());
  } catch {
    $('curl').value = '';
  }
}
async function confirmed(event) {
  event.preventDefault();
  $('confirm').disabled = true;
  try {
    const { method, path, body } = order();
    const answer = await call(method, path, body);
    if (asked.chosen.found) return say($('found'), asked.chosen.found(answer));
    $('dialog').close();
    toast(`Done: ${asked.chosen.verb.toLowerCase()}, ${asked.title}`);
    soon();
  } catch (error) {
    say($('refused'), error instanceof Refused ? `Refused: ${error.message}` : 'No answer from the API. Whether it was done is not known.');
    if (error instanceof Refused && error.status === 405) askWritable();
  } finally {
    $('confirm').disabled = false;
  }
}
async function copy() {
  $('curl').select();
  try {
    await navigator.clipboard.writeText($('curl').value);
  } catch {
    document.execCommand('copy'); // no clipboard for pages over plain HTTP
  }
  say($('copy'), 'Copied');
  setTimeout(() => say($('copy'), 'Copy'), 1500);
}
let toasted = 0;
function toast(text) {
  say($('toast'), text);
  $('toast').hidden = false;
  clearTimeout(toasted);
  toasted = setTimeout(() => ($('toast').hidden = true), 4000);
}

// A button that opens such a dialog; it is there only where the API may be written to.
function actionButton(label, open) {
  return el('button', { type: 'button', class: 'dots write', 'aria-haspopup': 'dialog', 'aria-label': label, title: label, onclick: open }, '⋯');
}
