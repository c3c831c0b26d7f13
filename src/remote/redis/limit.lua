-- Decides a batch of calls, each all or nothing, by Redis's own clock.
--
-- The arithmetic is that of policy::limit, in whole numbers below 2^53, where doubles are exact. The reply holds
-- the state that each limit met; what to tell the client is worked out from it by policy::limit itself.
--
-- KEYS   the states, each named once
-- ARGV   the number of gateways, then for each call what comes first, then for each limit its key's place in KEYS,
--        its code, its cost, its kind's numbers, and with codes 7 to 9 how many more requests it wants in advance
--        first   number of limits; or -T: one limit, asked T times one after another;
--                or 0: no call, but one key's place, code, amount, numbers and stamp: to be put right first
--        code    of a limit: its kind, and 3 more to post, which never refuses, or 6 more to take in advance
--                of no call: its kind, to raise the state to an amount, or 3 more to give back so many requests
--        kind, numbers
--          1 (gcra)     N, P, burst: a request pours in P ticks, N drain per millisecond
--          2 (sliding)  bucket length in ms, requests per window, N, P, burst (N = 0: no burst)
--          3 (fixed)    period in ms, requests per window
--        stamp   when what is given back was taken: 1 (gcra) the value it left behind, two numbers; 2, 3 in ms
-- reply  now in ms, number of foreign values, then for each call: how many times it was admitted, for each limit
--          1            level in ticks
--          2            newest bucket, level, number of counts, counts from the newest to the oldest
--          3            window, count
--        and, if it was admitted, for each limit that wants more: how many it got
--
-- Values, by the same kinds (a key's name tells kind and format version):
--          1  "MS FRACTION"                                  when the bucket will be empty
--          2  "LENGTH BUCKET MS FRACTION COUNT COUNT ..."    counts from the newest, BUCKET, to older ones
--          3  "PERIOD WINDOW COUNT"

local floor, min, max, find, gmatch = math.floor, math.min, math.max, string.find, string.gmatch
local LARGEST = 9007199254740992 -- 2^53
local LIVE = 17                  -- buckets that count: the current one and sixteen before it
local SLACK = 1000               -- ms that a clock may lag; beyond that a time ahead is another configuration's
local CEILING = 281474976710656  -- 2^48: no bucket of a window counts further, so that their sum stays exact
local TAKE, POST, GRANT, RAISE, RETURN = 0, 1, 2, 3, 4

local gateways = tonumber(ARGV[1])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)

local foreign = 0
local states, kinds, absent, dirty = {}, {}, {}, {}

-- Numbers separated by one space each, at least `least` and at most `most` of them; nil for anything else.
local function numbers(text, least, most)
  if #text > 400 or find(text, '[^%d ]') then return nil end
  local list, count = {}, 0
  for digits in gmatch(text, '%d+') do
    count = count + 1
    list[count] = tonumber(digits)
    if list[count] >= LARGEST then return nil end
  end
  if count < least or count > most then return nil end
  return list
end

local function parse(kind, text)
  local list
  if kind == 1 then
    list = numbers(text, 2, 2)
  elseif kind == 2 then
    list = numbers(text, 4, 4 + LIVE)
  else
    list = numbers(text, 3, 3)
  end
  if not list or kind ~= 1 and list[1] == 0 then
    foreign = foreign + 1
    return false
  end
  return list
end

-- MGET takes a value of another type for absent; the write finds out.
local texts = redis.call('MGET', unpack(KEYS))

local function load(i, kind)
  local state = states[i]
  if state == nil then
    kinds[i] = kind
    absent[i] = not texts[i]
    state = texts[i] and parse(kind, texts[i])
    states[i] = state
  end
  return state
end

-- Of `fit` requests that would be admitted, how many are. In advance not more than half of a gateway's part of
-- what is left, so that none can drain a limit in one go and the last requests are dealt out one by one.
local function allot(fit, times, mode)
  if mode == GRANT then return min(times, max(1, floor(fit / (2 * gateways))), fit) end
  return min(times, fit)
end

local function amend(i, state)
  states[i], dirty[i] = state, true
end

-- Each kind's function looks at its state, and says how often `cost` was admitted, where the reply ends, and the
-- state after it (nil: as before). With RAISE and RETURN it puts the state right instead.

-- GCRA --------------------------------------------------------------------------------------------------------

-- Ticks in the bucket, and whether the state was beyond what this configuration can have written.
local function level_of(ms, fraction, n, p, burst)
  local ahead = ms - now
  if ahead < 0 then return 0, false end
  local capacity = (burst + 1) * p
  if ahead > floor(capacity / n) + SLACK then return capacity, true end
  if fraction >= n then fraction = n - 1 end
  return ahead * n + fraction, false
end

-- How many requests of this cost fit one after another. The quotient is exact: neither side reaches 2^52, so a
-- fraction is further from the next whole number than rounding could take it.
local function room(level, cost, p, burst)
  local left = (burst + 1 - cost) * p - level
  if left < 0 then return 0 end
  return floor(left / (cost * p)) + 1
end

-- The level with `cost` more. What is posted may rise above a full bucket, as far as can be told from a state
-- of another configuration.
local function poured(level, cost, n, p, burst, mode)
  if mode ~= POST then return level + cost * p end
  return min(level + cost * p, max(level, (burst + 1) * p + SLACK * n))
end

-- When a bucket of this level will be empty.
local function empty_at(level, n)
  if level <= 0 then return 0, 0 end
  local fraction = level % n
  return now + (level - fraction) / n, fraction
end

-- Raises never lower, and not above a full bucket.
--
-- What is given back was taken in advance, U ticks of a bucket that stood at S right after it. Beside the real bucket
-- imagine one that was never charged those U. Both are poured into alike and drain alike, so the real one stays U
-- ahead until the other runs empty, and loses of its lead what drains while the other is empty. Had nothing been
-- poured in since, the lead now would be min(U, what is left of S by now); what was poured in only kept the other
-- bucket from running empty, so the lead is no less. By taking out that much the real bucket never falls below the
-- one that was never charged: nobody gets more than if nothing had been taken in advance.
local function gcra_put_right(i, at, amount, level, mode, n, p, burst)
  local right = max(level, min(amount, (burst + 1) * p))
  if mode == RETURN then
    local left = level_of(tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), n, p, burst)
    right = max(0, level - min(amount * p, left))
  end
  if right ~= level then amend(i, { empty_at(right, n) }) end
end

local function gcra(i, at, cost, times, mode, out, size)
  local n, p, burst = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local state, level, cut = load(i, 1), 0, false
  if state then level, cut = level_of(state[1], state[2], n, p, burst) end
  if cut then amend(i, { empty_at(level, n) }) end
  if mode >= RAISE then return gcra_put_right(i, at, cost, level, mode, n, p, burst) end
  out[size + 1] = level
  local fit = times
  if cost > 0 and mode ~= POST then fit = allot(room(level, cost, p, burst), times, mode) end
  if fit == 0 or cost == 0 then return fit, size + 1, nil end
  return fit, size + 1, { empty_at(poured(level, fit * cost, n, p, burst, mode), n) }
end

-- Sliding window ----------------------------------------------------------------------------------------------

-- The state as of now, its first count being that of the current bucket (or of a newer one).
local function window_of(i, length)
  local state, current = load(i, 2), floor(now / length)
  if not state then return { length, current, 0, 0 } end
  local newest, moved = state[2], { length, current, state[3], state[4] }
  if state[1] ~= length then
    -- Another configuration's buckets: what they hold counts from now on.
    local used = 0
    if (newest + LIVE) * state[1] > now then
      for place = 5, #state do used = used + state[place] end
    end
    moved[5] = min(used, CEILING)
    amend(i, moved)
  elseif newest > current + LIVE - 1 then
    -- The clock was set back by more than a window.
    for place = 5, #state do moved[place] = state[place] end
    amend(i, moved)
  elseif newest >= current then
    return state
  elseif newest + LIVE > current then
    local shift = current - newest
    for place = 5, 4 + shift do moved[place] = 0 end
    for place = 5, min(#state, 4 + LIVE - shift) do moved[place + shift] = state[place] end
  end
  return moved
end

-- The state with `cost` more in its newest bucket, or that much less in its oldest ones: giving back what
-- leaves first never makes room for longer than it should.
local function count_in(state, cost)
  local after = { unpack(state) }
  if cost > 0 then
    local count = after[5] or 0
    after[5] = min(count + cost, max(count, CEILING))
    return after
  end
  for place = #after, 5, -1 do
    local less = min(after[place], -cost)
    after[place] = after[place] - less
    cost = cost + less
  end
  return after
end

-- What was taken in advance can be given back while its bucket counts, and from the oldest buckets: the newest
-- so many buckets never hold less than if it had not been taken. The burst stays charged, it drains soon.
local function sliding_put_right(i, at, amount, state, used, mode, length, most)
  if mode == RAISE then
    local missing = min(amount, most) - used
    if missing > 0 then amend(i, count_in(state, missing)) end
  elseif used > 0 and floor(tonumber(ARGV[at + 5]) / length) + LIVE > state[2] then
    amend(i, count_in(state, -amount))
  end
end

local function sliding(i, at, cost, times, mode, out, size)
  local length, most, n = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local p, burst = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local state = window_of(i, length)
  local level, used, counts = 0, 0, #state - 4
  if n > 0 then
    local cut
    level, cut = level_of(state[3], state[4], n, p, burst)
    if cut then
      state = { unpack(state) }
      state[3], state[4] = empty_at(level, n)
      amend(i, state)
    end
  end
  out[size + 1], out[size + 2], out[size + 3] = state[2], level, counts
  for place = 1, counts do
    out[size + 3 + place] = state[4 + place]
    used = used + state[4 + place]
  end
  if mode >= RAISE then return sliding_put_right(i, at, cost, state, used, mode, length, most) end
  local fit = times
  if cost > 0 and mode ~= POST then
    fit = max(0, floor((most - used) / cost))
    if n > 0 then fit = min(fit, room(level, cost, p, burst)) end
    fit = allot(fit, times, mode)
  end
  if fit == 0 or cost == 0 then return fit, size + 3 + counts, nil end
  local after = count_in(state, fit * cost)
  if n > 0 then after[3], after[4] = empty_at(poured(level, fit * cost, n, p, burst, mode), n) end
  return fit, size + 3 + counts, after
end

-- Fixed window ------------------------------------------------------------------------------------------------

-- What was taken in advance can be given back while its window counts.
local function fixed_put_right(i, at, amount, window, count, mode, period, most)
  local right = count
  if mode == RAISE then
    right = max(count, min(amount, most))
  elseif floor(tonumber(ARGV[at + 2]) / period) == window then
    right = max(0, count - amount)
  end
  if right ~= count then amend(i, { period, window, right }) end
end

local function fixed(i, at, cost, times, mode, out, size)
  local period, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local state, window, count = load(i, 3), floor(now / period), 0
  if state and state[1] ~= period then
    -- Another configuration's window: what it holds counts until this one's ends.
    if (state[2] + 1) * state[1] > now then count = state[3] end
  elseif state and (state[2] == window or state[2] == window + 1) and state[3] > 0 then
    window, count = state[2], state[3]
  end
  if mode >= RAISE then return fixed_put_right(i, at, cost, window, count, mode, period, most) end
  out[size + 1], out[size + 2] = window, count
  local fit = times
  if cost > 0 and mode ~= POST then fit = allot(max(0, floor((most - count) / cost)), times, mode) end
  if fit == 0 or cost == 0 then return fit, size + 2, nil end
  return fit, size + 2, { period, window, max(0, min(count + fit * cost, max(count, CEILING))) }
end

-- Calls -------------------------------------------------------------------------------------------------------

local kinds_of = { 1, 2, 3, 1, 2, 3, 1, 2, 3 }
local decide = { gcra, sliding, fixed }
local width = { 3, 5, 2 }  -- numbers of a kind
local stamp = { 2, 1, 1 }  -- numbers of its stamp
local out, size, at, last = { 0, 0 }, 2, 2, #ARGV

-- What is no call: whatever the calls that follow are told, it stays.
local function put_right()
  local i, code, amount = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local kind, mode = kinds_of[code], code > 3 and RETURN or RAISE
  decide[kind](i, at + 3, amount, 1, mode, {}, 0)
  at = at + 3 + width[kind] + (mode == RETURN and stamp[kind] or 0)
end

-- What a call wants in advance, once it is admitted as a whole.
local function grant(wants)
  for _, want in ipairs(wants) do
    local i, kind, place, more = unpack(want)
    local got, _, after = decide[kind](i, place, 1, more, GRANT, {}, 0)
    if after then amend(i, after) end
    size = size + 1
    out[size] = got
  end
end

local function call(limits, times)
  local verdict, admitted, wants = size + 1, times, nil
  -- Each limit is charged as it is met, so that a key named twice in one call counts twice, and all is undone
  -- if one refuses. States are never changed in place.
  local touched, before, charged = {}, {}, 0
  size = size + 1
  for _ = 1, limits do
    local i, code, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local kind, mode, fit, after = kinds_of[code], TAKE, 0, nil
    if code > 3 and code < 7 then mode = POST end
    fit, size, after = decide[kind](i, at + 3, cost, times, mode, out, size)
    if fit < admitted then admitted = fit end
    if after then
      charged = charged + 1
      touched[charged], before[charged] = i, states[i]
      states[i] = after
    end
    local place = at + 3
    at = place + width[kind]
    if code > 6 then
      wants = wants or {}
      wants[#wants + 1] = { i, kind, place, tonumber(ARGV[at]) }
      at = at + 1
    end
  end
  for k = charged, 1, -1 do
    if admitted > 0 then dirty[touched[k]] = true else states[touched[k]] = before[k] end
  end
  out[verdict] = admitted
  if wants and admitted > 0 then grant(wants) end
end

while at <= last do
  local first = tonumber(ARGV[at])
  at = at + 1
  if first == 0 then put_right() else call(max(first, 1), max(-first, 1)) end
end

-- Writes ------------------------------------------------------------------------------------------------------

-- The value to store, and the first millisecond at which it says no more than an absent one.
local function value_of(kind, state)
  if kind == 3 then
    local stop = state[3] > 0 and (state[2] + 1) * state[1] or 0
    return string.format('%.0f %.0f %.0f', state[1], state[2], state[3]), stop
  end
  local ms, fraction = kind == 1 and state[1] or state[3], kind == 1 and state[2] or state[4]
  local stop = fraction > 0 and ms + 1 or ms
  if kind == 1 then return string.format('%.0f %.0f', ms, fraction), stop end
  local text, newest = {}, nil
  for place = 1, #state do
    text[place] = string.format('%.0f', state[place])
    if place > 4 and state[place] > 0 then newest = newest or state[2] - (place - 5) end
  end
  if newest then stop = max(stop, (newest + LIVE) * state[1]) end
  return table.concat(text, ' '), stop
end

-- PXAT, not PX: the expiry hangs on the same reading of the clock as the value.
local function store(i, value, stop)
  stop = string.format('%.0f', stop)
  if not absent[i] then return redis.pcall('SET', KEYS[i], value, 'PXAT', stop) end
  local reply = redis.pcall('SET', KEYS[i], value, 'PXAT', stop, 'GET')
  if type(reply) == 'table' and reply.err and find(reply.err, 'WRONGTYPE', 1, true) then
    foreign = foreign + 1
    return redis.pcall('SET', KEYS[i], value, 'PXAT', stop)
  end
  return reply
end

local written = false
for i in pairs(dirty) do
  local value, stop = value_of(kinds[i], states[i])
  local reply
  if stop > now then
    reply = store(i, value, stop)
  elseif not absent[i] then
    reply = redis.pcall('DEL', KEYS[i])
  end
  if type(reply) == 'table' and reply.err then
    -- The first write tells whether this server takes any. After one that worked nothing is known any more.
    if not written then return reply end
    return redis.error_reply('ERR partly charged: ' .. reply.err)
  end
  written = written or reply ~= nil
end

out[1], out[2] = now, foreign
return out
