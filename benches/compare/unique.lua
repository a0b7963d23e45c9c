-- Asks for no URL twice: the argument is a path that no other load of the run has, a number follows it.
-- All numbers have eight digits, so that all requests are equally long.
dofile("summary.lua")

local number = 0
local head

function init(arguments)
    head = "GET " .. arguments[1]
end

function request()
    number = number + 1
    return head .. string.format("%08d HTTP/1.1\r\nHost: bench\r\n\r\n", number)
end
