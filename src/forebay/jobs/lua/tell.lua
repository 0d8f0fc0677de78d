-- ARGV: for each partial: id, nonce, number, progress (or ''), piece (p and the piece, or ''). Reply as in extend.
local replies = {}

local function tell(job, progress, piece)
  local events = base .. 'e:' .. job.id
  if progress ~= '' then
    job.sequence = job.sequence + 1
    call('HSET', job.key, 'e', job.sequence, 'p', progress)
    call('RPUSH', events, event(job.sequence, 'p', 'r', job.attempt, progress, ''))
    changed(job.id, 'r', job.sequence, job.model)
  end
  if piece ~= '' then
    job.sequence = job.sequence + 1
    call('HSET', job.key, 'e', job.sequence)
    local reached = call('HGET', job.key, 'p') or '0'
    call('RPUSH', events, event(job.sequence, 'o', 'r', job.attempt, reached, piece:sub(2)))
    changed(job.id, 'r', job.sequence, job.model)
  end
end

for i = 1, #ARGV, 5 do
  local job = record(ARGV[i])
  local own = job.state == 'r' and job.nonce == ARGV[i + 1]
  if own then
    local number = tonumber(ARGV[i + 2])
    local told = tonumber(call('HGET', job.key, 'u') or 0)
    if number == 0 or number > told then
      if number > 0 then
        call('HSET', job.key, 'u', number)
      end
      tell(job, ARGV[i + 3], ARGV[i + 4])
    end
  end
  replies[#replies + 1] = own and '1' or '0'
end
flush()
return table.concat(replies)
