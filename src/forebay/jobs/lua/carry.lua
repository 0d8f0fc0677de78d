-- Jobs that are free to be run. ARGV: most bytes of bodies, most of one, ids.
-- Reply: how many were looked at, then for each that is: id, order, terms, envelope, body; nil for a body that is
-- larger.
local left, most, reply = tonumber(ARGV[1]), tonumber(ARGV[2]), { 0 }
for i = 3, #ARGV do
  local key = jobs .. ARGV[i]
  local f = call('HMGET', key, 's', 'c', 'd', 'w')
  if f[1] == 'q' and call('ZSCORE', base .. 'q:' .. terms_of(f[4]).model, ARGV[i]) then
    local n, size = #reply, call('HSTRLEN', key, 'b')
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = ARGV[i], f[2], f[4], f[3], false
    if size <= most then
      reply[n + 5] = call('HGET', key, 'b') or ''
      left = left - size
    end
  end
  reply[1] = i - 2
  if left <= 0 then
    break
  end
end
return reply
