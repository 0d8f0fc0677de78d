-- ARGV: for each job: id, kind (s f x c as states, t retry, l release) and nonce, as one; output (o and the output, or
-- ''); metrics; and where there is any of them, delay (ms), form of the output and error. Reply as in extend.
local replies = {}

-- What is stored of an end: the mark, and what there is of output, metrics, error and form.
local function fields_of(mark, output, metrics, err, form)
  local fields, n = { 'z', mark, 'o', output:sub(2) }, output == '' and 2 or 4
  if metrics ~= '' then
    fields[n + 1], fields[n + 2], n = 'M', metrics, n + 2
  end
  if err ~= '' then
    fields[n + 1], fields[n + 2], n = 'E', err, n + 2
  end
  if form ~= '' then
    fields[n + 1], fields[n + 2], n = 'O', form, n + 2
  end
  return unpack(fields, 1, n)
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
  local f = call('HMGET', jobs .. id, 's', 'n', 'e', 'm', 'R', 'x')
  local done = f[1] == 'r' and f[2] == nonce
  if not done then
    done = call('HGET', jobs .. id, 'z') == nonce .. kind
  elseif kind == 'l' or kind == 't' then
    local job = record(id)
    if kind == 'l' then
      requeue(job, 0, job.attempt - 1, 'z', nonce .. kind)
    elseif job.attempt < job.attempts then
      requeue(job, delay, job.attempt, 'z', nonce .. kind)
    else
      finish(job, 'f', fields_of(nonce .. kind, ARGV[i + 1], ARGV[i + 2], err, form))
    end
  else
    local job = {
      id = id, key = jobs .. id, state = 'r', model = f[4], sequence = f[3], retention = f[5],
      hook = f[6]:sub(-1) == 'w',
    }
    finish(job, kind, fields_of(nonce .. kind, ARGV[i + 1], ARGV[i + 2], err, form))
  end
  replies[#replies + 1] = done and '1' or '0'
end
flush()
return table.concat(replies)
