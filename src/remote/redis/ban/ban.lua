-- Bans of one zone, shared by all gateways.
--
-- KEYS   list     sorted set: hash of each key that is banned, and when that ends
--        version  changes with the list
--        state    of one key: "END SINCE LEVEL CAUSE LIFTED STAMP ORIGIN SEQ"
--        hits     of one key under one rule: "AT:COUNT AT:COUNT ..."
-- ARGV   what, channel, zone as messages name it, hash, origin (who asks: hexadecimal), when that was by this clock (0: nobody
--        knows), the greatest STAMP that he knows of the key; then, all times in milliseconds:
--   hit  count, window, granule, duration, max_duration, cause, highest level, then how long ago each hit was
--   ban  left, ago (its beginning), level, cause, 1 to set aside what is in force, how long to remember it after, seq,
--        END and STAMP (0: this is news; else Redis said so once, and may have lost it)
--   lift ago, left, seq, STAMP (as above)
--   list known version, first, last (positions)
--
-- Each word about a key has a STAMP, which rises; of two, the one with the greater holds. SEQ numbers the words of one origin,
-- in the order in which they were said; they may come in another.
--
-- Replies: {0} nothing is in force; {1, left, ago, level, cause, END, STAMP, ORIGIN, SEQ} that is, {3, ...} through this very
-- hit; {2, ago, STAMP, ORIGIN, SEQ} it was lifted;
-- of a list {version, 1 if it is another than the known one, members on this page, then for each that is
-- in force hash, left, ago, level, cause, END, STAMP, ORIGIN, SEQ}. All of them end with the time by this clock.

local list, version, state, hits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local what, channel, zone, hash, origin = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local asked, known = tonumber(ARGV[6]), tonumber(ARGV[7])
local function arg(n) return tonumber(ARGV[7 + n]) end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local micros = clock[1] * 1000000 + clock[2]
local RING = 32
-- So long an operator's word is remembered after its end: one of before that may still come, from a gateway that was cut off.
local HOUR = 3600000
-- No ban is longer: what ends later is not of ours.
local LONGEST = 367 * 86400000
-- How long this was on its way: what stood in line while the server did stands for when it was said.
local passed = asked > 0 and now - asked > 50 and now - asked or 0

local function whole(n) return string.format('%.0f', n) end

-- A value that is not ours is taken for absent.
local function parse(text)
  local a, b, c, d, e, f, g, h = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%x+) (%d+)$')
  local none = { ends = 0, since = 0, level = 0, cause = 1, lifted = 0, stamp = 0, origin = '0', seq = 0 }
  if not a or #text > 160 or #g > 16 then return none end
  local ban = { ends = tonumber(a), since = tonumber(b), level = tonumber(c), cause = tonumber(d), lifted = tonumber(e),
    stamp = tonumber(f), origin = g, seq = tonumber(h) }
  local fits = ban.ends < now + LONGEST and ban.level < 256 and ban.cause >= 1 and ban.cause <= 3
  for _, n in ipairs({ ban.since, ban.lifted, ban.stamp, ban.seq }) do fits = fits and n < 2 ^ 53 end
  return fits and ban or none
end

local function told(ban)
  return { 1, ban.ends - now, math.max(now - ban.since, 0), ban.level, ban.cause, ban.ends, ban.stamp, ban.origin, ban.seq }
end

local function keep(ban, life)
  local text = table.concat({ whole(ban.ends), whole(ban.since), whole(ban.level), whole(ban.cause), whole(ban.lifted),
    whole(ban.stamp), ban.origin, whole(ban.seq) }, ' ')
  redis.call('SET', state, text, 'PX', whole(math.max(life, 1)))
end

-- The list has changed: it lives as long as its last ban.
local function changed()
  redis.call('ZREMRANGEBYSCORE', list, '-inf', whole(now))
  redis.call('ZREMRANGEBYSCORE', list, whole(now + LONGEST), '+inf')
  local last = redis.call('ZRANGE', list, 0, 0, 'REV', 'WITHSCORES')
  local ends = tonumber(last[2] or now)
  if last[2] then redis.call('PEXPIREAT', list, whole(ends + 1000)) end
  redis.call('SET', version, whole(micros), 'PX', whole(ends - now + 3600000))
end

local function enter(ban)
  local added = redis.pcall('ZADD', list, whole(ban.ends), hash)
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'WRONGTYPE') then return added end
    redis.call('DEL', list)
    redis.call('ZADD', list, whole(ban.ends), hash)
  end
  changed()
end

local function publish(...) redis.call('PUBLISH', channel, table.concat({ ... }, ' ')) end

local function impose(ban, memory)
  local failed = enter(ban)
  if failed then return failed end
  keep(ban, ban.ends - now + memory)
  local reply = told(ban)
  local text = { 'ban', zone, hash }
  for i = 2, 9 do text[#text + 1] = type(reply[i]) == 'number' and whole(reply[i]) or reply[i] end
  publish(unpack(text))
  return reply
end

local function answer()
if what == 'list' then
  -- 1: there is none, which is not the same as not having looked.
  local current = tonumber(redis.call('MGET', version)[1] or 1) or 1
  if not (current >= 1 and current < 2 ^ 53) then current = 1 end
  local reply = { current, 1, 0 }
  if current == arg(1) then reply[2] = 0; return reply end
  local page = redis.pcall('ZRANGE', list, arg(2), arg(3), 'WITHSCORES')
  if page.err then
    if string.find(page.err, 'WRONGTYPE') then return reply end
    return page
  end
  reply[3] = #page / 2
  local names = {}
  for i = 1, #page, 2 do names[#names + 1] = list .. ':' .. page[i] end
  local texts = #names > 0 and redis.call('MGET', unpack(names)) or {}
  for i = 1, #names do
    local ban, ends = parse(texts[i]), tonumber(page[2 * i])
    if ends > now and ends < now + LONGEST and ban.lifted == 0 then
      -- The state may have been put out by a server short of memory.
      if ban.ends ~= ends then ban.ends, ban.since = ends, now end
      local row = told(ban)
      row[1] = page[2 * i - 1]
      for _, value in ipairs(row) do reply[#reply + 1] = value end
    end
  end
  return reply
end

local ban = parse(redis.call('MGET', state)[1])
local running = ban.ends > now and ban.lifted == 0
local mine = ban.seq > 0 and ban.origin == origin

-- What holds, after what was said has come too late, or changes nothing.
local function standing()
  if running then
    -- It may be missing in the list after all.
    if redis.pcall('ZADD', list, 'NX', whole(ban.ends), hash) ~= 0 then
      local failed = enter(ban)
      if failed then return failed end
    end
    return told(ban)
  end
  if ban.lifted > 0 then return { 2, math.max(now - ban.lifted, 0), ban.stamp, ban.origin, ban.seq } end
  return { 0 }
end

-- Whether a word is not to be heeded, `at` being when it was said: one of the same origin's has been heard that was said later,
-- or another's; or Redis knows as much as who tells it what it has said itself.
local function late(at, seq, was, since)
  if was > 0 then return ban.stamp >= was end
  if mine then return seq <= ban.seq end
  return ban.lifted > at or since > at
end

-- A word that is told again keeps its stamp, so that whoever has heard a later one knows better.
local stamp = math.max(micros, ban.stamp + 1, known + 1)

local function lift(at, left, seq, stamp)
  local lifted = { ends = 0, since = 0, level = 0, cause = 1, lifted = at, stamp = stamp, origin = origin, seq = seq }
  keep(lifted, math.max(left, HOUR))
  local removed = redis.pcall('ZREM', list, hash)
  if type(removed) == 'number' then changed() elseif not string.find(removed.err, 'WRONGTYPE') then return removed end
  local ago = math.max(now - at, 0)
  publish('lift', zone, hash, whole(ago), whole(stamp), origin, whole(seq))
  return { 2, ago, stamp, origin, seq }
end

if what == 'lift' then
  local at, left, seq, was = now - arg(1) - passed, arg(2) - passed, arg(3), arg(4)
  if late(at, seq, was, ban.since) then return standing() end
  return lift(at, left, seq, was > 0 and was or stamp)
end

if what == 'ban' then
  local left, since, level, cause, force = arg(1) - passed, now - arg(2) - passed, arg(3), arg(4), arg(5) == 1
  local memory, seq, ends, was = arg(6), arg(7), arg(8), arg(9)
  -- By hand it was said when it began; what misbehaviour led to may add to what is in force.
  if late(since, seq, was, (force or ban.cause == 3) and ban.since or 0) then return standing() end
  if was > 0 then
    stamp = was
    left = math.min(left, ends - now)
    -- It is over, and with it what was said before it.
    if left <= 0 then return running and lift(since, 0, 0, was) or standing() end
  elseif left <= 0 then
    return standing()
  elseif running and not force then
    left, since, level = math.max(left, ban.ends - now), math.min(since, ban.since), math.max(level, ban.level)
    cause = ban.cause
    if now + left == ban.ends and level == ban.level then return standing() end
  end
  return impose({ ends = now + left, since = since, level = level, cause = cause, lifted = 0, stamp = stamp, origin = origin,
    seq = seq }, cause == 3 and math.max(memory, HOUR) or memory)
end

-- A hit.
if running then return told(ban) end
local count, window, granule, duration, longest, cause, highest = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6), arg(7)
local from = math.max(now - window, ban.ends, ban.lifted)
local log = {}
local text = redis.call('MGET', hits)[1] or ''
if #text <= 4096 and not string.find(text, '[^%d: ]') then
  for at, n in string.gmatch(text, '(%d+):(%d+)') do
    if tonumber(at) > from and tonumber(at) <= now then log[#log + 1] = { tonumber(at), tonumber(n) } end
  end
end
for i = 8, #ARGV - 7 do
  local at = now - arg(i) - passed
  if at > from then log[#log + 1] = { at, 1 } end
end
table.sort(log, function(a, b) return a[1] < b[1] end)
local merged, total = {}, 0
for _, one in ipairs(log) do
  local newest = merged[#merged]
  if newest and one[1] - newest[1] <= granule then newest[2] = newest[2] + one[2] else merged[#merged + 1] = one end
  total = total + one[2]
end

if total >= count then
  redis.call('DEL', hits)
  local level = ban.lifted > 0 and 0 or ban.level
  level = math.max(level - math.floor((now - ban.ends) / longest), 0)
  level = math.min(level + 1, highest)
  local length = math.min(duration * 2 ^ (level - 1), longest)
  -- One level is forgotten with each `longest`: there are so many to be remembered.
  local reply = impose({ ends = now + length, since = now, level = level, cause = cause, lifted = 0, stamp = stamp,
    origin = origin, seq = 0 }, longest * level)
  if reply[1] == 1 then reply[1] = 3 end
  return reply
end
local parts = {}
for i = math.max(#merged - RING + 1, 1), #merged do parts[#parts + 1] = whole(merged[i][1]) .. ':' .. whole(merged[i][2]) end
if #parts > 0 then redis.call('SET', hits, table.concat(parts, ' '), 'PX', whole(window)) end
return { 0 }
end

local reply = answer()
if type(reply) == 'table' and not reply.err then reply[#reply + 1] = now end
return reply
