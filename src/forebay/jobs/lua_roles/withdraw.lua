-- A worker is going. ARGV: its id. The keys are told of in announce.lua.
redis.call('DEL', KEYS[1] .. 'w:' .. ARGV[1])
redis.call('SREM', KEYS[1] .. 'workers', ARGV[1])
redis.call('PUBLISH', KEYS[1] .. 'news', ARGV[1])
