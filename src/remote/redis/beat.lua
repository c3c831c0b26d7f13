-- Says that one gateway is alive, and returns how many are.
--
-- KEYS   the list: "ID MS ID MS ...", each gateway and when it was last heard of, the latest at the end
-- ARGV   this gateway's ID, in hexadecimal digits

local LIFE = 7000   -- ms after which a gateway is not alive any more
local MOST = 1024   -- gateways that are kept
local KEEP = 14000  -- ms for which the list outlives the last of them

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- A value that is not ours is taken for absent: nothing in it looks like a gateway that was heard of just now.
local text = redis.call('MGET', KEYS[1])[1] or ''
if #text > 65536 or string.find(text, '[^%x ]') then text = '' end

local alive = {}
for id, ms in string.gmatch(text, '(%x+) (%d+)') do
  if id ~= ARGV[1] and math.abs(now - tonumber(ms)) <= LIFE and #id <= 16 then
    alive[#alive + 1] = id .. ' ' .. ms
  end
end
while #alive >= MOST do table.remove(alive, 1) end
alive[#alive + 1] = string.format('%s %.0f', ARGV[1], now)

local reply = redis.pcall('SET', KEYS[1], table.concat(alive, ' '), 'PX', KEEP)
if reply.err then return reply end
return #alive
