-- ARGV: for each job: id, nonce, kind (s f x c as states, t retry, l release), delay (ms), output (o and the output, or
-- ''), its form, error, metrics. Reply as in extend.
local replies = {}

local NAMES = { 'o', 'O', 'E', 'M' }

-- What is stored of an end: the mark, and what is not empty of output, form, error and metrics.
local function fields_of(i, mark)
  local fields, n = { 'z', mark }, 2
  for at = 1, 4 do
    local value = ARGV[i + 3 + at]
    if value ~= '' then
      fields[n + 1], fields[n + 2] = NAMES[at], at == 1 and value:sub(2) or value
      n = n + 2
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
      finish(job, kind == 't' and 'f' or kind, unpack(fields_of(i, mark)))
    end
  end
  replies[#replies + 1] = done and '1' or '0'
end
flush()
return table.concat(replies)
