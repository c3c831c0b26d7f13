-- For wrk: every request with another key of 4096, made before the clock runs.
local requests = {}
local at = 0

function init()
    for i = 1, 4096 do
        requests[i] = wrk.format("GET", (wrk.path:gsub("k=.*", "k=user-" .. i)))
    end
end

function request()
    at = at % #requests + 1
    return requests[at]
end
