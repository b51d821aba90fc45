-- Gives leased jobs of one shard back untried; they are due again when they were due before. A release with a stale
-- token changes nothing.
--
-- ARGV from FIRST, 5 per job: id, destination, token (the lease's deadline), proposed (the one that was asked for and not
-- heard back of, or ''), due in ms
-- Reply: now, then 1 or 0 per job: released, or the token was stale.
-- Cost: 6 operations and 1 per destination for a batch. Atomic.

local WIDTH = 5
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'release takes 5 values per job')

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then return { NOW } end

local deadlines = redis.call('ZMSCORE', LEASES, unpack(ids))
local records = redis.call('HMGET', JOBS, unpack(ids))
local released, written = {}, {}
local reply = { NOW }
for k, id in ipairs(ids) do
  local i = FIRST + (k - 1) * WIDTH
  local _, destination, token, proposed, due = unpack(ARGV, i, i + 4)
  if records[k] and holds(deadlines[k], token, proposed) then
    released[#released + 1] = id
    local trimmed = trim(records[k], id, destination)
    if trimmed ~= records[k] then
      written[#written + 1] = id
      written[#written + 1] = trimmed
    end
    put_due(destination, id, tonumber(due))
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
call_many('ZREM', LEASES, released)
call_many('HSET', JOBS, written)
write_due()
write_journal()
return reply
