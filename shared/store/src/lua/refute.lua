-- Records a bounce of a message that a relay had accepted: the message was not delivered. The job
-- continues or ends as the policy decided. Nothing changes if the job is leased, or if its record
-- is no longer the one that the caller read.
--
-- Takes:
--   id           account/recipient
--   destination
--   seen         the record that the caller decided about
--   op           'retry' (the job waits again), 'close' (no message is left) or 'retire' (the
--                address leaves the active list)
--   argument     retry: delay in ms; close: ''; retire: 'standing last row', a line end and the
--                evidence as JSON: `last` is the length of the last event, and '!' comes before the
--                row if the host is down
--   record       retry: the new record; else ''
--   its_events   JSON objects, joined by commas
--   tally        the field of the destination's tally that counts this failure
--   mark         what the failure means for the destination's pace: '-' (its host failed) or '~'
--                (our route to it failed); any other mark changes nothing (pace.lua)
--   serial       the serial of the lease under which the attempt was made
-- Reply: now, a letter, a detail, and the changes that the caller logs (prelude.lua):
--   'c'   nothing changed: the job is not as the caller read it
--   'l'   nothing changed: the job is leased
--   'q'   the job has its new record, and stays in quarantine
--   'w'   the job waits again; the detail is when it is due
--   'x'   the job has ended
--   'r'   the job has ended and the address is retired; the detail is its standing as JSON
-- Full memory: refused, because the number of bounces has no limit. The client gets a 503 and
-- repeats the request.
-- Cost: 12 operations; 3 more if the mark is '-' or '~', 4 more for a retired address. Atomic.

if redis.call('HGET', JOBS, id) ~= seen then return { NOW, 'c', '', to_log } end
local waits = find_due(destination, id)
local quarantined = not waits and redis.call('ZSCORE', QUARANTINE, id)
if not waits and not quarantined then return { NOW, 'l', '', to_log } end

local function end_job()
  remove_due(destination, id)
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
    remove_due(destination, id)
    put_due(destination, id, NOW + tonumber(argument))
  end
elseif op == 'close' then
  end_job()
  add_event(its_events)
else
  local standing, last, host_down, reason, evidence =
    string.match(argument, '^(%S+) (%d+) (!?)([^\n]*)\n(.*)$')
  local fields
  end_job()
  letter = 'r'
  detail, fields = retire(id, standing, reason, host_down ~= '', evidence)
  add_event(string.sub(its_events, 1, -last - 2))
  add_event(string.sub(its_events, -last, -2) .. fields .. '}')
end
count(destination, tally, 1)
note_late_failure(destination, mark, serial)
write_pace()
write_due()
write_journal()
return { NOW, letter, detail, to_log }
