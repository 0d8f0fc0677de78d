-- ARGV: for each job: id, nonce, kind (s f x c as states, t retry, l release), delay (ms), output (o and the output, or
-- ''), its form, error, metrics. Reply as in extend.
local replies = {}

local function fields_of(i)
  local fields = {}
  if ARGV[i + 4] ~= '' then
    fields[1], fields[2] = 'o', ARGV[i + 4]:sub(2)
  end
  for offset, name in pairs({ [5] = 'O', [6] = 'E', [7] = 'M' }) do
    if ARGV[i + offset] ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = ARGV[i + offset]
    end
  end
  return fields
end

for i = 1, #ARGV, 8 do
  local nonce, kind = ARGV[i + 1], ARGV[i + 2]
  local job, mark = record(ARGV[i]), nonce .. kind
  local done = job.mark == mark
  if job.state == 'r' and job.nonce == nonce then
    done = true
    if kind == 'l' then
      requeue(job, 0, job.attempt - 1, 'z', mark)
    elseif kind == 't' and job.attempt < job.attempts then
      requeue(job, tonumber(ARGV[i + 3]), job.attempt, 'z', mark)
    else
      finish(job, kind == 't' and 'f' or kind, 'z', mark, unpack(fields_of(i)))
    end
  end
  replies[#replies + 1] = done and '1' or '0'
end
flush()
return table.concat(replies)
