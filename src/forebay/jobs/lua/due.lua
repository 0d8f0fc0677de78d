-- Takes webhooks that are to be called. ARGV: most, hold (ms), after which they are due again.
-- Reply: for each its id and how often it failed.
local ids = call('ZRANGE', base .. 'webhooks', '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
if #ids == 0 then
  return {}
end
local reply, tries = {}, call('HMGET', base .. 'tries', unpack(ids))
for i, id in ipairs(ids) do
  add('webhooks', now + ARGV[2], id)
  reply[2 * i - 1], reply[2 * i] = id, tries[i] or 0
end
flush()
return reply
