-- ARGV: for each job: id, kind (s f x c as states, t retry, l release) and nonce, as one; output (o and the output, or
-- ''); metrics; and where there is any of them, delay (ms), form of the output and error. Reply as in extend.
local replies = {}

-- What is stored beside the ending, where there is any: output, error, form.
local function fields_of(output, err, form)
  local fields, n = { 'o', output:sub(2) }, output == '' and 0 or 2
  if err ~= '' then
    fields[n + 1], fields[n + 2], n = 'E', err, n + 2
  end
  if form ~= '' then
    fields[n + 1], fields[n + 2], n = 'O', form, n + 2
  end
  return unpack(fields, 1, n)
end

-- Whether this very finish took effect before.
local function repeated(id, nonce, kind)
  local f = call('HMGET', jobs .. id, 'z', 'n', 'F')
  if f[3] then
    return f[2] and f[2]:sub(9) == nonce and f[3]:sub(9, 9) == kind
  end
  return f[1] == nonce .. kind
end

local function requeued(id, nonce, kind, delay)
  local job = record(id)
  if kind == 'l' then
    requeue(job, 0, job.attempt - 1, 'z', nonce .. kind)
  elseif job.attempt < job.attempts then
    requeue(job, delay, job.attempt, 'z', nonce .. kind)
  else
    return false
  end
  return true
end

for i = 1, #ARGV, 4 do
  local head = ARGV[i]
  local id, kind, nonce = head:sub(1, 16), head:sub(17, 17), head:sub(18)
  local delay, err, form = 0, '', ''
  if ARGV[i + 3] ~= '' then
    local rare, size = ARGV[i + 3], 0
    delay, size = struct.unpack('>I4H', rare)
    form, err = rare:sub(7, 6 + size), rare:sub(7 + size)
  end
  local f = call('HMGET', jobs .. id, 's', 'n', 'w', 'a', 'e')
  local done = f[1] == 'r' and f[2]:sub(9) == nonce
  if not done then
    done = repeated(id, nonce, kind)
  elseif not ((kind == 'l' or kind == 't') and requeued(id, nonce, kind, delay)) then
    local terms, attempt, sequence = terms_of(f[3]), counts('r', f[4], f[5])
    finish({
      id = id, key = jobs .. id, state = 'r', model = terms.model, retention = terms.retention, hook = terms.hook,
      attempt = attempt, sequence = sequence, counted = f[4] or f[5], ending = kind .. ARGV[i + 2],
    }, kind == 't' and 'f' or kind, fields_of(ARGV[i + 1], err, form))
  end
  replies[#replies + 1] = done and '1' or '0'
end
flush()
return table.concat(replies)
