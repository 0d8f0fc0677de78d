-- ARGV: 1 with outputs or 0 without, ids. Reply: for each an array of fields, the tenant (gone) or nothing.
local replies = {}
for i = 2, #ARGV do
  replies[#replies + 1] = show(ARGV[i], ARGV[1] == '1')
end
return replies
