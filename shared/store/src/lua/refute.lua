-- A bounce says that a message which a relay had accepted did not get through: the job goes on as
-- policy says. Nothing changes where the job is not as the caller has seen it any more, or is
-- leased.
--
-- ARGV from FIRST:
--   id           account/recipient
--   destination
--   seen         the record that the caller has judged
--   op           'retry' (it waits again), 'close' (no message is left) or 'retire' (the address leaves the active list)
--   argument     retry: delay in ms; close: ''; retire: 'standing last row', with how long the last event is, and '!' before
--                the row where the host is dead
--   record       retry: the new record; else ''
--   events       JSON objects, joined by commas
--   tally        the field of the destination's tally that counts this
--   mark         what it says of the destination: '-', '~' or '' (pace.lua)
--   serial       of the lease that the attempt was made under
-- Reply: now; 'c' (it has changed), 'l' (it is leased), 'q' (it is in quarantine and stays there),
-- 'w' and when it is due, 'x' (it has ended), 'r' and the standing's JSON.
-- Full memory: refused, because nothing bounds how many bounces come: the client is answered 503
-- and repeats it.
-- Cost: 10 operations; 3 more where it says something of the destination, 4 more for a retired
-- address. Atomic.

assert(#ARGV == FIRST + 9, 'refute takes 10 values')
local id, destination, seen, op, argument, record, its_events, tally, mark, serial = unpack(ARGV, FIRST)

if redis.call('HGET', JOBS, id) ~= seen then return { NOW, 'c', '' } end
local waits = redis.call('ZSCORE', due_key(destination), id)
local quarantined = not waits and redis.call('ZSCORE', QUARANTINE, id)
if not waits and not quarantined then return { NOW, 'l', '' } end

local function forget_job()
  redis.call('ZREM', due_key(destination), id)
  redis.call('ZREM', QUARANTINE, id)
  redis.call('HDEL', JOBS, id)
  redis.call('HDEL', LAPSES, id)
end

local letter, detail = 'x', ''
if op == 'retry' then
  redis.call('HSET', JOBS, id, record)
  add_event(its_events)
  letter = 'q'
  if waits then
    letter, detail = 'w', text(NOW + tonumber(argument))
    put_due(destination, id, NOW + tonumber(argument))
  end
elseif op == 'close' then
  forget_job()
  add_event(its_events)
else
  local standing, last, dead, reason = string.match(argument, '^(%S+) (%d+) (!?)(.*)$')
  local fields
  forget_job()
  letter = 'r'
  detail, fields = retire(id, standing, reason, dead ~= '')
  add_event(string.sub(its_events, 1, -last - 2))
  add_event(string.sub(its_events, -last, -2) .. fields .. '}')
end
count(destination, tally, 1)
note_late_failure(destination, mark, serial)
write_pace()
write_due()
write_journal()
return { NOW, letter, detail }
