-- Tell callers. ARGV: of each message the caller, the message, how long to keep it (ms; 0: it goes out as it is, else the
-- caller is told to fetch it), how many answers it holds, and their ids. The keys are told of in send.lua.
local call, base = redis.call, KEYS[1]
local at = 1
while at <= #ARGV do
  local caller, message, kept_ms, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  if kept_ms ~= '0' then
    local id = ARGV[at + 4]
    call('SET', base .. 'a:' .. id, message, 'PX', kept_ms)
    message = 'k' .. id
  end
  call('PUBLISH', base .. 'r:' .. caller, message)
  for n = 1, count do
    call('DEL', base .. 'p:' .. ARGV[at + 3 + n])
  end
  at = at + 4 + count
end
