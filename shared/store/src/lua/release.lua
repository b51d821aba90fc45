-- Gives leased jobs of one shard back without an attempt. They get their earlier due times back.
-- Jobs whose attempt crashed lapse at once. If an attempt was given up because its host did not
-- answer, its destination's breaker opens. A release with a stale token changes nothing.
--
-- Takes for each JOB:
--   id           account/recipient
--   token        the lease
--   number       of the job in the lease
--   destination
--   due          in ms
--   why          'crashed', or for how many ms its attempt had waited for an answer, or ''
-- Reply: now; the changes that the caller logs (prelude.lua); then 1 or 0 per job: released, or the
-- token was stale.
-- Full memory: runs, because it gives back. It adds a due time per job that was leased, and an
-- event per attempt that crashed.
-- Cost: 7 operations per job and 3 per destination; it is rare. Atomic.

local reply = { NOW, to_log }
for i = JOB_AT, #ARGV, JOB_WIDTH do
  local id, token, number, destination, due, why = unpack(ARGV, i, i + JOB_WIDTH - 1)
  local marks = read_marks(token)
  local held = marks[tonumber(number)] == HELD
  if held then
    marks[tonumber(number)] = GONE
    write_marks(token, marks)
    local void, joined = read_mark(redis.call('HGET', MEANWHILE, id))
    if why == 'crashed' then
      put_back({ id }, token, { [id] = NOW })
    else
      held = serial_of(token) > void
      if why == '' then
        end_attempt(destination, token, '', held and 1 or 0)
      else
        give_up_attempt(destination, token, tonumber(why), held and 1 or 0)
      end
      if held then
        if joined > 0 then
          local record = redis.call('HGET', JOBS, id)
          if record then redis.call('HSET', JOBS, id, trim(record, id, destination)) end
          settle_joined(id, void)
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
