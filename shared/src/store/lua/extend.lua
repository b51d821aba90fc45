-- Lengthens leases of one shard whose attempts take long. A stale token is not extended.
--
-- ARGV[7]  length of the lease from now on, in ms
-- ARGV from 8, 2 per job: id, token (the lease's deadline)
-- Reply: now, then per job the new token, or 0 where the old one was stale.
-- Cost: 2 operations for a batch. Atomic.

local FIRST, WIDTH = 8, 2
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'extend takes 2 values per job')

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then return { NOW } end

local deadline = NOW + tonumber(ARGV[7])
local deadlines = redis.call('ZMSCORE', LEASES, unpack(ids))
local extended = {}
local reply = { NOW }
for k, id in ipairs(ids) do
  if deadlines[k] and tonumber(deadlines[k]) == tonumber(ARGV[FIRST + (k - 1) * WIDTH + 1]) then
    extended[#extended + 1] = deadline
    extended[#extended + 1] = id
    reply[#reply + 1] = deadline
  else
    reply[#reply + 1] = 0
  end
end
call_many('ZADD', LEASES, extended)
return reply
