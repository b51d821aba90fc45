-- Finds the addresses that a worker may still be sending to although their jobs have ended
-- meanwhile. The worker's lease is void for them, and the worker has not reported yet that its
-- attempt has stopped.
--
-- Takes for each ADDRESS:
--   id  account/recipient
-- Reply: now; those of them.
-- Full memory: runs; it writes nothing. It is not flagged no-writes, because then a replica would
-- answer with what is over by now.
-- Cost: 1 operation; if a job was leased when it ended, 1 more and 2 per lease of the shard.
-- Changes nothing.

if #ARGV < ADDRESS_AT then return { NOW, {} } end

local void_of, any = {}, false
for k, mark in ipairs(redis.call('HMGET', MEANWHILE, unpack(ARGV, ADDRESS_AT))) do
  local void = read_mark(mark)
  if void > 0 then void_of[ARGV[ADDRESS_AT + k - 1]], any = void, true end
end

local found = {}
-- A lease that has run out is over, as for every other script.
local tokens = any and redis.call('ZRANGE', LEASES, '(' .. NOW_TEXT, '+inf', 'BYSCORE') or {}
for _, token in ipairs(tokens) do
  for _, id in ipairs(held_jobs(token)) do
    if void_of[id] and serial_of(token) <= void_of[id] then found[#found + 1] = id end
  end
end
return { NOW, found }
