-- ARGV: group, consumer, most, milliseconds after which what others hold is overdue, and 1 to look for that first (0:
-- only where there is nothing else). KEYS: streams, in the order in which they are to be read, and where to leave word
-- of that time for `depth`. Answers with rows of stream number, entry, id, payload and 1 where it was overdue.
local left, overdue, look_first = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local rows = {}

local function add(number, entries, was_overdue)
  for _, entry in ipairs(entries) do
    rows[#rows + 1] = { number, entry[1], entry[2][2], entry[2][4] or false, was_overdue }
    left = left - 1
  end
end

local function take_overdue()
  for number = 1, #KEYS - 1 do
    local stream = KEYS[number]
    local entries = {}
    if left > 0 then
      for _, row in ipairs(grouped(stream, 'XPENDING', stream, group, 'IDLE', overdue, '-', '+', left)) do
        entries[#entries + 1] = row[1]
      end
    end
    if #entries > 0 then
      add(number, redis.call('XCLAIM', stream, group, consumer, overdue, unpack(entries)), 1)
    end
  end
end

local function take_new()
  for number = 1, #KEYS - 1 do
    local stream = KEYS[number]
    local found = left > 0
      and grouped(stream, 'XREADGROUP', 'GROUP', group, consumer, 'COUNT', left, 'STREAMS', stream, '>')
    if found then
      add(number, found[1][2], 0)
    end
  end
end

if look_first then
  redis.call('SET', KEYS[#KEYS], overdue)
  take_overdue()
end
take_new()
if #rows == 0 and not look_first then
  take_overdue()
end
return rows
