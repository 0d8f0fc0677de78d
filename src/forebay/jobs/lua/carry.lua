-- Jobs that are free to be run, whole. ARGV: most bytes of bodies, ids.
-- Reply: how many were looked at, then for each that is: id, order, envelope, body.
local left, reply = tonumber(ARGV[1]), { 0 }
for i = 2, #ARGV do
  local f = call('HMGET', jobs .. ARGV[i], 's', 'c', 'd', 'b', 'w')
  if f[1] == 'q' and call('ZSCORE', base .. 'q:' .. terms_of(f[5]).model, ARGV[i]) then
    local n, body = #reply, f[4] or ''
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ARGV[i], f[2], f[3], body
    left = left - #body
  end
  reply[1] = i - 1
  if left <= 0 then
    break
  end
end
return reply
