-- The peer of scripts/bench limit: a limit by Redis as a user of lua-resty-redis writes a good one. One GCRA script with Redis's
-- own clock, called by its hash, over a pool of connections that are kept.

-- Debian installs lua-resty-redis under nginx/, others under resty/.
local found, redis = pcall(require, "nginx.redis")
if not found then
    redis = require "resty.redis"
end

-- KEYS[1]: when the bucket will be empty, in µs. ARGV: µs that a request takes to leak, and how many may stand in it.
-- Returns how many µs to wait; 0 admits.
local SCRIPT = [[
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = tonumber(ARGV[1])
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local wait = empty - now - interval * ARGV[2]
if wait > 0 then return wait end
empty = empty + interval
redis.call('SET', KEYS[1], string.format('%.0f', empty), 'PX', math.ceil((empty - now) / 1000))
return 0
]]

local function hex(bytes)
    return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end
local HASH = hex(ngx.sha1_bin(SCRIPT))

local Peer = {}
Peer.__index = Peer

local function new(host, port)
    return setmetatable({ host = host, port = port }, Peer)
end

-- µs to wait, or nil and why there is no answer.
function Peer:ask(key, interval, burst)
    local connection = redis:new()
    connection:set_timeouts(1000, 1000, 1000)
    local ok, err = connection:connect(self.host, self.port)
    if not ok then
        return nil, err
    end
    local wait, why = connection:evalsha(HASH, 1, key, interval, burst)
    if not wait and why and why:find("NOSCRIPT", 1, true) then
        wait, why = connection:eval(SCRIPT, 1, key, interval, burst)
    end
    if wait then
        connection:set_keepalive(60000, 256)
    else
        connection:close()
    end
    return wait, why
end

-- Refuses the request if `key` is over `rate` per second by more than `burst`; lets it pass when Redis does not answer.
function Peer:limit(key, rate, burst)
    local wait, why = self:ask("peer:" .. key, 1000000 / rate, burst)
    if not wait then
        ngx.log(ngx.ERR, "no decision: ", why)
    elseif wait > 0 then
        ngx.header["Retry-After"] = math.ceil(wait / 1000000)
        return ngx.exit(429)
    end
end

return { new = new }
