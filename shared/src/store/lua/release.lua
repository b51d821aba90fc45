-- Gives leased jobs of one shard back untried; they are due again when they were due before. Jobs whose attempt crashed
-- lapse at once. A release with a stale token changes nothing.
--
-- ARGV from FIRST, 5 per job: id, token, destination, due in ms, 'crashed' or ''
-- Reply: now, then 1 or 0 per job: released, or the token was stale.
-- Cost: 7 operations per job and 3 per destination; it is rare. Atomic.

local WIDTH = 5
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'release takes 5 values per job')

local reply = { NOW }
for i = FIRST, #ARGV, WIDTH do
  local id, token, destination, due, crashed = unpack(ARGV, i, i + WIDTH - 1)
  local key = lease_key(token)
  local held = redis.call('SREM', key, id) == 1
  if held then
    if redis.call('EXISTS', key) == 0 then redis.call('ZREM', LEASES, token) end
    local void, joined = read_mark(redis.call('HGET', MEANWHILE, id))
    if crashed ~= '' then
      put_back({ id }, token, { [id] = NOW })
    else
      held = tonumber(token) > void
      end_attempt(destination, token, '', held and 1 or 0)
      if held then
        if joined > 0 then
          local record = redis.call('HGET', JOBS, id)
          redis.call('HSET', JOBS, id, trim(record, id, destination))
          unmark(id, void)
        end
        put_due(destination, id, tonumber(due))
      end
    end
  end
  reply[#reply + 1] = held and 1 or 0
end
write_pace()
write_due()
write_journal()
return reply
