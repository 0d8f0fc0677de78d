-- ARGV: id. Reply: state, events so far, number of the running event (0: none), attempt, progress; then the list of
-- others.
local shown = show(ARGV[1], false)
if not shown or shown == 'G' then
  return {}
end
local f = call('HMGET', base .. 'j:' .. ARGV[1], 's', 'e', 'r', 'a', 'p', 'S')
return { f[1], f[2] or 1, f[3] or f[6] and 2 or 0, f[4] or 0, f[5], call('LRANGE', base .. 'e:' .. ARGV[1], 0, -1) }
