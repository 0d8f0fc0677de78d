-- ARGV and KEYS as of extend.
for i = 3, #ARGV, 3 do
  drop(KEYS[2 * ARGV[i] - 1], KEYS[2 * ARGV[i]], ARGV[i + 1], ARGV[i + 2])
end
return 0
