-- ARGV: id, number to begin behind, most bytes, bytes that an event counts beside its piece.
-- Reply: state, events so far, number of the running event (0: none), attempt, progress; then the list of others, one
-- at least; 1 where those are all.
local shown = show(ARGV[1], false)
if type(shown) ~= 'table' then
  return {}
end
local after, most, each = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local f = call('HMGET', jobs .. ARGV[1], 's', 'r', 'p', 'n')
local attempt, last = shown[5], shown[6]
local running, key = tonumber(f[2] or f[4] and 2 or 0), base .. 'e:' .. ARGV[1]
local total, at, chunk, nbytes, entries = call('LLEN', key), 0, 1, 0, {}
if running > 0 and after >= running then
  -- Those behind the running event have no gaps, and the ending is not among them.
  at = math.max(0, total - (last - after) + (is_over(f[1]) and 1 or 0))
end

while at < total and (#entries == 0 or nbytes < most) do
  for _, entry in ipairs(call('LRANGE', key, at, at + chunk - 1)) do
    if #entries > 0 and nbytes + #entry + each > most then
      return { f[1], last, running, attempt, f[3], entries, 0 }
    end
    at = at + 1
    if tonumber(entry:match('^%d+')) > after then
      entries[#entries + 1] = entry
      nbytes = nbytes + #entry + each
    end
  end
  chunk = #entries == 0 and 100 or math.max(1, math.min(256, math.floor((most - nbytes) / nbytes * #entries)))
end
return { f[1], last, running, attempt, f[3], entries, at < total and 0 or 1 }
