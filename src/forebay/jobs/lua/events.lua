-- ARGV: id. Reply: state, events so far, number of the running event, attempt, progress; then the list of others.
local shown = show(ARGV[1], false)
if not shown or shown == 'G' then
  return {}
end
local f = call('HMGET', base .. 'j:' .. ARGV[1], 's', 'e', 'r', 'a', 'p')
return { f[1], f[2], f[3], f[4], f[5], call('LRANGE', base .. 'e:' .. ARGV[1], 0, -1) }
