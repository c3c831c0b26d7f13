-- What limit.lua does, for a batch in which every call has one limit and every limit is gcra: the bulk of all batches.
-- Redis runs a script from its first line each time, so this one makes no function, and hardly a table, before it
-- decides. Arguments, reply, values and arithmetic are those of limit.lua, and explained there.

local ARGV, KEYS, call, pcall = ARGV, KEYS, redis.call, redis.pcall
local floor, min, max, match = math.floor, math.min, math.max, string.match
local LARGEST = 9007199254740992 -- 2^53
local SLACK = 1000               -- ms

local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
local texts = call('MGET', unpack(KEYS))

-- The states, and which of them are to be written.
local mss, fractions, dirty = {}, {}, {}
local foreign = 0
local out, size, at, last = { now, 0 }, 2, 2, #ARGV

while at <= last do
  local first, i, code = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local cost, n, p = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local full = (tonumber(ARGV[at + 6]) + 1) * p
  local ahead = floor(full / n) + SLACK
  at = at + 7

  local ms, fraction = mss[i], fractions[i]
  if not ms then
    ms, fraction = 0, 0
    local text = texts[i]
    if text then
      local a, b = match(text, '^(%d+) (%d+)$')
      a, b = tonumber(a), tonumber(b)
      if a and a < LARGEST and b < LARGEST then ms, fraction = a, b else foreign = foreign + 1 end
    end
  end

  local level, after = 0, nil
  if ms - now > ahead then
    level, after = full, full
  elseif ms >= now then
    level = (ms - now) * n + min(fraction, n - 1)
  end

  if first ~= 0 then
    -- A call: so many of them, one after another, as fit.
    local fit = max(-first, 1)
    if code ~= 4 and cost > 0 then fit = min(fit, max(0, floor((full - level) / (cost * p)))) end
    size = size + 2
    out[size - 1], out[size] = fit, level
    if fit > 0 and cost ~= 0 then
      after = level + fit * cost * p
      if code == 4 then after = min(after, max(level, full + SLACK * n)) end
    end
    if code == 7 then
      if fit > 0 then
        local more = max(0, floor((full - (after or level)) / p))
        more = min(tonumber(ARGV[at]), max(1, floor(more / (2 * tonumber(ARGV[1])))), more)
        if more > 0 then after = (after or level) + more * p end
        size = size + 1
        out[size] = more
      end
      at = at + 1
    end
  elseif code == 1 then
    -- Known to be in use at least.
    after = max(level, min(cost, full))
  else
    -- Given back: what of it has not drained since it was taken.
    local left, taken = 0, tonumber(ARGV[at])
    if taken - now > ahead then
      left = full
    elseif taken >= now then
      left = (taken - now) * n + min(tonumber(ARGV[at + 1]), n - 1)
    end
    after = max(0, level - min(cost * p, left))
    at = at + 2
  end

  if after then
    ms, fraction = 0, 0
    if after > 0 then
      fraction = after % n
      ms = now + (after - fraction) / n
    end
    dirty[i] = true
  end
  mss[i], fractions[i] = ms, fraction
end

local written = false
for i in pairs(dirty) do
  local ms, fraction, reply = mss[i], fractions[i], nil
  local stop = fraction > 0 and ms + 1 or ms
  if stop > now then
    local value = string.format('%.0f %.0f', ms, fraction)
    if texts[i] then
      reply = pcall('SET', KEYS[i], value, 'PXAT', stop)
    else
      reply = pcall('SET', KEYS[i], value, 'PXAT', stop, 'GET')
      if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
        foreign = foreign + 1
        reply = pcall('SET', KEYS[i], value, 'PXAT', stop)
      end
    end
  elseif texts[i] then
    reply = pcall('DEL', KEYS[i])
  end
  if type(reply) == 'table' and reply.err then
    -- The first write tells whether this server takes any. After one that worked nothing is known any more.
    if not written then return reply end
    return redis.error_reply('ERR partly charged: ' .. reply.err)
  end
  written = written or reply ~= nil
end

out[2] = foreign
return out
