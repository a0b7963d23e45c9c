-- Asks for one URL after the other, and begins anew after the last: PATTERN (with one %d), FIRST, COUNT; then, if there
-- is one, a file with a value of `Authorization` on each line: every URL is asked for with each of them in turn.
dofile("summary.lua")

local pattern, first, count
local tokens = {}
-- wrk takes the first request for a trial and doesn't send it.
local number = -1

function init(arguments)
    pattern, first, count = arguments[1], tonumber(arguments[2]), tonumber(arguments[3])
    if arguments[4] then
        for line in io.lines(arguments[4]) do
            tokens[#tokens + 1] = "Authorization: " .. line .. "\r\n"
        end
    else
        tokens[1] = ""
    end
end

function request()
    local now = first + math.max(number, 0)
    number = (number + 1) % count
    local path = string.format(pattern, math.floor(now / #tokens))
    return "GET " .. path .. " HTTP/1.1\r\nHost: bench\r\n" .. tokens[now % #tokens + 1] .. "\r\n"
end
