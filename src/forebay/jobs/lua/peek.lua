-- ARGV: models. Reply: how many jobs of each level can be run now.
local counts = { 0, 0, 0 }
for _, model in ipairs(ARGV) do
  for level = 0, 2 do
    local from, to = string.format('%.0f', level * LEVEL), string.format('(%.0f', (level + 1) * LEVEL)
    counts[level + 1] = counts[level + 1] + call('ZCOUNT', base .. 'q:' .. model, from, to)
  end
end
return counts
