-- ARGV: most jobs, lease (ms), most bytes, nonce, error of what is overdue, models.
-- Reply: how many were looked at, then for each claimed job: id, envelope, body, attempt. Its nonce is the one given
-- and its number, from 1.
local most, lease, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local nonce, overdue = ARGV[4], ARGV[5]
local pages, looked, claimed, nbytes = {}, 0, 0, 0
local reply = { 0 }

for i = 6, #ARGV do
  local entries = call('ZRANGE', base .. 'q:' .. ARGV[i], 0, most - 1, 'WITHSCORES')
  if #entries > 0 then
    pages[#pages + 1] = { model = ARGV[i], entries = entries, at = 1 }
  end
end

local function first_of(all)
  local best, best_score
  for _, page in ipairs(all) do
    local score = tonumber(page.entries[page.at + 1])
    if score and (not best or score < best_score) then
      best, best_score = page, score
    end
  end
  return best
end

local function claim(model, id)
  local key = jobs .. id
  local f = call('HMGET', key, 's', 'a', 'e', 'T', 'd', 'b')
  if f[1] ~= 'q' then
    return
  end
  if f[4] then
    if tonumber(f[4]) <= now then
      finish(record(id), 'x', 'E', overdue)
      return
    end
    remove('t', id)
  end
  local attempt, sequence, body = (f[2] or 0) + 1, (f[3] or 1) + 1, f[6] or ''
  claimed, nbytes = claimed + 1, nbytes + #body
  if sequence > 2 then
    call('HSET', key, 's', 'r', 'n', packed_now .. nonce .. claimed, 'a', attempt, 'e', sequence, 'r', sequence)
  else
    call('HSET', key, 's', 'r', 'n', packed_now .. nonce .. claimed)
  end
  add('r:' .. model, now + lease, id)
  count_bytes(model, -#body)
  changed(id, 'r', sequence, model)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, f[5], body, attempt
end

while claimed < most and nbytes < most_bytes and looked < 2 * most do
  local page = first_of(pages)
  if not page then
    break
  end
  claim(page.model, page.entries[page.at])
  page.at = page.at + 2
  looked = looked + 1
end
-- Before flush(), which takes overdue ones out by name and so moves ranks.
for _, page in ipairs(pages) do
  if page.at > 1 then
    call('ZREMRANGEBYRANK', base .. 'q:' .. page.model, 0, (page.at - 1) / 2 - 1)
  end
end
flush()
reply[1] = looked
return reply
