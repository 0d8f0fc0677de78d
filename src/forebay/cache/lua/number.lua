-- KEYS[1] base; where the number of drops begins if there is none, what is dropped. The next number, and all are told of
-- it in one step: so they hear of every number, in order.
local drops = KEYS[1] .. 'drops'
redis.call('SET', drops, ARGV[1], 'NX')
redis.call('INCR', drops)
redis.call('PUBLISH', KEYS[1] .. 'news', 'd' .. redis.call('GET', drops) .. ' ' .. ARGV[2])
return 1
