-- What became of webhooks. ARGV: for each: id, when it is due again (ms from now; '' never), 1 where it failed or 0.
-- Reply as in extend; 0: it is not known any more.
local replies, webhooks, tries = {}, base .. 'webhooks', base .. 'tries'
for i = 1, #ARGV, 3 do
  local id, again = ARGV[i], ARGV[i + 1]
  local known = call('ZSCORE', webhooks, id)
  if known and again == '' then
    remove('webhooks', id)
    call('HDEL', tries, id)
  elseif known then
    add('webhooks', now + again, id)
    if ARGV[i + 2] == '1' then
      call('HINCRBY', tries, id, 1)
    end
  end
  replies[#replies + 1] = known and '1' or '0'
end
flush()
return table.concat(replies)
