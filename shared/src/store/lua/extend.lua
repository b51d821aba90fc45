-- Lengthens leases of one shard whose attempts take long. The holder names the new deadline, so that it knows it even
-- where it does not hear back. A stale token is not extended.
--
-- ARGV from FIRST, 4 per job: id, token (the lease's deadline), proposed (one that was asked for before and not heard back
-- of, or ''), the new deadline in ms
-- Reply: now, then 1 or 0 per job: the lease ends at the new deadline, or the token was stale.
-- Cost: 2 operations for a batch. Atomic; repeating it changes nothing.

local WIDTH = 4
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'extend takes 4 values per job')

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then return { NOW } end

local deadlines = redis.call('ZMSCORE', LEASES, unpack(ids))
local extended = {}
local reply = { NOW }
for k, id in ipairs(ids) do
  local _, token, proposed, deadline = unpack(ARGV, FIRST + (k - 1) * WIDTH, FIRST + k * WIDTH - 1)
  if holds(deadlines[k], token, proposed) then
    extended[#extended + 1] = deadline
    extended[#extended + 1] = id
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
call_many('ZADD', LEASES, extended)
return reply
