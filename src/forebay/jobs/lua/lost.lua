-- Jobs of a model whose messages seem to be lost; they count as free since now. ARGV: model, milliseconds that they have
-- waited at least, 1 where nothing carries messages of the model, most of each level. Reply: their ids.
local model, after, empty, most = ARGV[1], ARGV[2] * 1000, ARGV[3] == '1', tonumber(ARGV[4])
local lost = {}
for level = 0, 2 do
  -- Where one that was accepted so much later has been claimed, what is still here was passed by.
  local passed = tonumber(call('HGET', base .. 'n', 'y:' .. level .. ':' .. model) or 0)
  local before = now_us - after
  if not empty then
    before = math.min(before, passed - after)
  end
  local from, to = string.format('%.0f', level * LEVEL), string.format('%.0f', level * LEVEL + before)
  for _, id in ipairs(call('ZRANGE', base .. 'q:' .. model, from, to, 'BYSCORE', 'LIMIT', 0, most)) do
    add('q:' .. model, level * LEVEL + now_us, id)
    lost[#lost + 1] = id
  end
end
flush()
return lost
