-- ARGV: lease (ms), then for each job: id, nonce. Reply: 1 or 0 for each, as one string.
local replies = {}
for i = 2, #ARGV, 2 do
  local f = call('HMGET', jobs .. ARGV[i], 's', 'n', 'w')
  local own = f[1] == 'r' and f[2]:sub(9) == ARGV[i + 1]
  if own then
    add('r:' .. terms_of(f[3]).model, now + ARGV[1], ARGV[i])
  end
  replies[#replies + 1] = own and '1' or '0'
end
flush()
return table.concat(replies)
