-- ARGV: error of what is canceled, ids. Reply: the records, as in read.
local replies = {}
for i = 2, #ARGV do
  local job = record(ARGV[i])
  if job.state == 'q' or job.state == 'r' then
    finish(job, 'c', 'E', ARGV[1])
  end
  replies[#replies + 1] = show(ARGV[i], true)
end
flush()
return replies
