-- Decides a batch of calls, each all or nothing, by Redis's own clock.
--
-- The arithmetic is that of policy::limit, in whole numbers below 2^53, where doubles are exact. The reply holds
-- the state that each limit met; what to tell the client is worked out from it by policy::limit itself.
--
-- KEYS   the states, each named once
-- ARGV   for each call: number of limits, then for each limit its key's place in KEYS, its kind, its cost, and
--          1 (gcra)     N, P, burst: a request pours in P ticks, N drain per millisecond
--          2 (sliding)  bucket length in ms, requests per window, N, P, burst (N = 0: no burst)
--          3 (fixed)    period in ms, requests per window
-- reply  now in ms, number of foreign values, then for each call: 1 if admitted or 0, then for each limit
--          1            level in ticks
--          2            newest bucket, level, number of counts, counts from the newest to the oldest
--          3            window, count
--
-- Values, by the same kinds (a key's name tells kind and format version):
--          1  "MS FRACTION"                                  when the bucket will be empty
--          2  "LENGTH BUCKET MS FRACTION COUNT COUNT ..."    counts from the newest, BUCKET, to older ones
--          3  "PERIOD WINDOW COUNT"

local floor, find, gmatch = math.floor, string.find, string.gmatch
local LARGEST = 9007199254740992 -- 2^53
local LIVE = 17                  -- buckets that count: the current one and sixteen before it
local SLACK = 1000               -- ms that a clock may lag; beyond that a time ahead is another configuration's

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

local function fits(level, cost, p, burst)
  return cost <= 0 or cost <= burst + 1 and level + (cost - 1) * p <= burst * p
end

-- When a bucket of this level will be empty.
local function empty_at(level, n)
  if level <= 0 then return 0, 0 end
  local fraction = level % n
  return now + (level - fraction) / n, fraction
end

local function gcra(i, at, out, size)
  local cost, n, p, burst = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local state, level, cut = load(i, 1), 0, false
  if state then level, cut = level_of(state[1], state[2], n, p, burst) end
  if cut then
    states[i] = { empty_at(level, n) }
    dirty[i] = true
  end
  out[size + 1] = level
  local after
  if cost ~= 0 and fits(level, cost, p, burst) then
    after = { empty_at(level + cost * p, n) }
  end
  return at + 4, size + 1, after or cost == 0, after
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
    moved[5] = used
    states[i], dirty[i] = moved, true
  elseif newest > current + LIVE - 1 then
    -- The clock was set back by more than a window.
    for place = 5, #state do moved[place] = state[place] end
    states[i], dirty[i] = moved, true
  elseif newest >= current then
    return state
  elseif newest + LIVE > current then
    local shift = current - newest
    for place = 5, 4 + shift do moved[place] = 0 end
    for place = 5, math.min(#state, 4 + LIVE - shift) do moved[place + shift] = state[place] end
  end
  return moved
end

-- The state with `cost` more in its newest bucket, or that much less in its oldest ones: giving back what
-- leaves first never makes room for longer than it should.
local function count_in(state, cost)
  local after = { unpack(state) }
  if cost > 0 then
    after[5] = (after[5] or 0) + cost
    return after
  end
  for place = #after, 5, -1 do
    local less = math.min(after[place], -cost)
    after[place] = after[place] - less
    cost = cost + less
  end
  return after
end

local function sliding(i, at, out, size)
  local cost, length, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local n, p, burst = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local state = window_of(i, length)
  local level, used, counts = 0, 0, #state - 4
  if n > 0 then
    local cut
    level, cut = level_of(state[3], state[4], n, p, burst)
    if cut then
      state = { unpack(state) }
      state[3], state[4] = empty_at(level, n)
      states[i], dirty[i] = state, true
    end
  end
  out[size + 1], out[size + 2], out[size + 3] = state[2], level, counts
  for place = 1, counts do
    out[size + 3 + place] = state[4 + place]
    used = used + state[4 + place]
  end
  size = size + 3 + counts
  if cost == 0 then return at + 6, size, true, nil end
  if cost > 0 and used + cost > most or n > 0 and not fits(level, cost, p, burst) then
    return at + 6, size, false, nil
  end
  local after = count_in(state, cost)
  if n > 0 then after[3], after[4] = empty_at(level + cost * p, n) end
  return at + 6, size, true, after
end

-- Fixed window ------------------------------------------------------------------------------------------------

local function fixed(i, at, out, size)
  local cost, period, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local state, window, count = load(i, 3), floor(now / period), 0
  if state and state[1] ~= period then
    -- Another configuration's window: what it holds counts until this one's ends.
    if (state[2] + 1) * state[1] > now then count = state[3] end
  elseif state and (state[2] == window or state[2] == window + 1) and state[3] > 0 then
    window, count = state[2], state[3]
  end
  out[size + 1], out[size + 2] = window, count
  if cost == 0 then return at + 3, size + 2, true, nil end
  if cost > 0 and count + cost > most then return at + 3, size + 2, false, nil end
  return at + 3, size + 2, true, { period, window, math.max(0, count + cost) }
end

-- Calls -------------------------------------------------------------------------------------------------------

local decide = { gcra, sliding, fixed }
local out, size, at, last = { 0, 0 }, 2, 1, #ARGV
while at <= last do
  local limits, verdict, admitted = tonumber(ARGV[at]), size + 1, true
  -- Each limit is charged as it is met, so that a key named twice in one call counts twice, and all is undone
  -- if one refuses. States are never changed in place.
  local touched, before, charged = {}, {}, 0
  at, size = at + 1, size + 1
  for _ = 1, limits do
    local i, kind, fit, after = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), false, nil
    at, size, fit, after = decide[kind](i, at + 2, out, size)
    admitted = admitted and fit
    if after then
      charged = charged + 1
      touched[charged], before[charged] = i, states[i]
      states[i] = after
    end
  end
  for k = charged, 1, -1 do
    if admitted then dirty[touched[k]] = true else states[touched[k]] = before[k] end
  end
  out[verdict] = admitted and 1 or 0
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
  if newest then stop = math.max(stop, (newest + LIVE) * state[1]) end
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
