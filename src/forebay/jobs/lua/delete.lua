-- ARGV: error of what is canceled, id. Reply: 1, or 0 where there is no such job.
local job = record(ARGV[2])
if job.state == 'q' or job.state == 'r' then
  finish(job, 'c', 'E', ARGV[1])
  flush()
elseif not is_over(job.state) or not kept(job.state, job.finished, job.retention) then
  return 0
end
forget(job, 'D')
flush()
return 1
