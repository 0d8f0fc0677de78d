-- Sends requests prepared beforehand, from the file named in BENCH_POOL: all heads, each with every tail.
-- Format: "<heads> <tails>\n", then each as "<bytes>\n" and the bytes. A request is head .. tail.
local heads, tails, sent = {}, {}, 0

function init(args)
  local file = assert(io.open(os.getenv("BENCH_POOL"), "rb"))
  local n_heads, n_tails = file:read("*l"):match("(%d+) (%d+)")
  for i = 1, tonumber(n_heads) do heads[i] = file:read(tonumber(file:read("*l"))) end
  for i = 1, tonumber(n_tails) do tails[i] = file:read(tonumber(file:read("*l"))) end
  file:close()
end

function request()
  local place = sent
  sent = sent + 1
  local head = heads[place % #heads + 1]
  if #tails == 0 then return head end
  -- Every head meets every tail before a pair comes again: the step along the tails grows by one each time round.
  return head .. tails[(place + math.floor(place / #heads)) % #tails + 1]
end

function done(summary, latency, requests)
  io.write(string.format(
    "\nBENCH {\"requests\": %d, \"duration_us\": %d, \"bytes\": %d, \"p50_us\": %d, \"p90_us\": %d, \"p99_us\": %d, "
      .. "\"highest_us\": %d, \"bad_status\": %d, \"connect\": %d, \"read\": %d, \"write\": %d, \"timeout\": %d}\n",
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, summary.errors.status, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.timeout))
end
