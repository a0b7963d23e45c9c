-- Asks for one of many URLs, each as likely: PATTERN (with one %d), FIRST, STEP, COUNT; then, if there is one, a file
-- with a value of `Authorization` on each line, of which each request takes one.
dofile("summary.lua")

local pattern, first, step, count
local tokens = {}

function init(arguments)
    pattern, first, step, count = arguments[1], tonumber(arguments[2]), tonumber(arguments[3]), tonumber(arguments[4])
    if arguments[5] then
        for line in io.lines(arguments[5]) do
            tokens[#tokens + 1] = line
        end
    end
    math.randomseed(1)
end

function request()
    local path = string.format(pattern, first + step * math.random(0, count - 1))
    local head = "GET " .. path .. " HTTP/1.1\r\nHost: bench\r\n"
    if #tokens > 0 then
        head = head .. "Authorization: " .. tokens[math.random(#tokens)] .. "\r\n"
    end
    return head .. "\r\n"
end
