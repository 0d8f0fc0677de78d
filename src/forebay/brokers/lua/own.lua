-- Everything that this consumer holds, after an answer was lost. Like take.
local rows = {}
for number, stream in ipairs(KEYS) do
  local found = grouped(stream, 'XREADGROUP', 'GROUP', group, consumer, 'STREAMS', stream, '0')
  for _, entry in ipairs(found and found[1][2] or {}) do
    if entry[2] and #entry[2] > 0 then
      rows[#rows + 1] = { number, entry[1], entry[2][2], entry[2][4] or false, 0 }
    end
  end
end
return rows
