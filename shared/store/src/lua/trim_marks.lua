-- Forgets, in a page of one shard's `meanwhile`, that leases on a job are void where all of them
-- are over anyway: those up to a serial lower than that of every lease there is. While there is any
-- mark, every settle has to look for its own.
--
-- ARGV[FIRST]      where the page starts: '0', or what the page before it replied
-- ARGV[FIRST + 1]  how many marks to look at, about
-- Reply: now; where the next page starts ('0': there is none); how many were forgotten.
-- Full memory: runs; it only deletes.
-- Cost: 3 operations for a page. Atomic; repeating it changes nothing.

assert(#ARGV == FIRST + 1, 'trim_marks takes 2 values')

local lowest = math.huge
for _, token in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do lowest = math.min(lowest, serial_of(token)) end

local cursor, found = unpack(redis.call('HSCAN', MEANWHILE, ARGV[FIRST], 'COUNT', ARGV[FIRST + 1]))
local over = {}
for i = 1, #found, 2 do
  local void, joined = read_mark(found[i + 1])
  -- What has joined is still to be settled with the job; and one that cannot be read keeps the
  -- job's leases void until it has been put back.
  if void < lowest and joined == 0 then over[#over + 1] = found[i] end
end
call_many('HDEL', MEANWHILE, over)
return { NOW, cursor, #over }
