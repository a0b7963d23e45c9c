-- Sends so many requests at once on each connection, and the next ones when all are answered.
dofile("summary.lua")

local all

function init(arguments)
    all = string.rep(wrk.format(), tonumber(arguments[1]))
end

function request()
    return all
end
