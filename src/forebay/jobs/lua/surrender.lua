-- Gives back what was claimed by a lease whose answer never arrived. ARGV: its nonce, models. Reply: how many.
local nonce, given = ARGV[1], 0
for i = 2, #ARGV do
  for _, id in ipairs(call('ZRANGE', base .. 'r:' .. ARGV[i], 0, 9999, 'REV')) do
    local held = call('HGET', jobs .. id, 'n')
    if held and held:sub(9, 8 + #nonce) == nonce then
      local job = record(id)
      if job.state == 'r' then
        requeue(job, 0, job.attempt - 1)
        given = given + 1
      end
    end
  end
end
flush()
return given
