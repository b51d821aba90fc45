-- Reports how a batch of attempts of one shard ended. A settle with a stale token changes nothing.
--
-- ARGV from FIRST, 12 per job:
--   op           'retry' (it waits again), 'close' (it ends) or 'retire' (it ends, and the address with it)
--   id           account/recipient
--   destination
--   token        the lease's deadline
--   proposed     the deadline that was asked for and not heard back of; '' where there is none
--   seen         how many bytes of the record the worker saw; what stands behind them joined during the lease
--   delivered    1 where a message got through, else 0
--   record       retry: the new record; close: the head that what joined goes on under; retire: ''
--   argument     retry: delay in ms; retire: the standing; close: ''
--   reason       retire: the policy row, with a leading '!' where the host is dead; else ''
--   events       JSON objects, joined by commas; '' where there are none
--   last         one more event: retry: it gets `due`; close: left out where the job goes on; retire: gets the standing
-- Reply: now, then 1 or 0 per job: settled, or the token was stale.
-- Cost: 9 operations and 2 per destination for a batch; 4 more per retired address. Atomic.

local WIDTH = 12
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'settle takes 12 values per job')

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i + 1] end
if #ids == 0 then return { NOW } end

local deadlines = redis.call('ZMSCORE', LEASES, unpack(ids))
local records = redis.call('HMGET', JOBS, unpack(ids))
local settled, released, deleted, written, delivered, cleared = {}, {}, {}, {}, {}, {}
local delivered_there = {}

local function keep(id, record)
  written[#written + 1] = id
  written[#written + 1] = record
end

-- What joined while the job was leased.
local function joined(record, seen)
  if #record > seen and string.sub(record, seen + 1, seen + 1) ~= '\n' then
    -- The bytes that the worker saw are not these any more; keeping every message loses none.
    return string.match(record, '\n.*')
  end
  return string.sub(record, seen + 1)
end

local settle = {}

function settle.retry(id, destination, tail, record, argument, _, last)
  local due = NOW + tonumber(argument)
  keep(id, tail == '' and record or trim(record .. tail, id, destination))
  put_due(destination, id, due)
  add_event(with_fields(last, ',"due":' .. string.format('%.0f', due)))
end

function settle.close(id, destination, tail, head, _, _, last)
  if tail == '' then
    deleted[#deleted + 1] = id
    add_event(last)
  else
    keep(id, trim(head .. tail, id, destination))
    put_due(destination, id, NOW)
  end
end

function settle.retire(id, destination, tail, _, argument, reason, last)
  local name, dead = string.gsub(reason, '^!', '')
  add_dropped_events(tail, id, destination, 'retired')
  -- A delivery in the same attempt has cleared the count of times in a row, which retiring reads.
  if cleared[#cleared] == id then redis.call('HDEL', STANDING, table.remove(cleared)) end
  local _, fields = retire(id, argument, name, dead > 0)
  deleted[#deleted + 1] = id
  add_event(with_fields(last, fields))
end

local function note_delivery(id, destination)
  delivered[#delivered + 1] = NOW
  delivered[#delivered + 1] = id
  delivered_there[destination] = true
  cleared[#cleared + 1] = id
end

local reply = { NOW }
for k, id in ipairs(ids) do
  local i = FIRST + (k - 1) * WIDTH
  local op, _, destination, token, proposed, seen, got_through, record, argument, reason, its_events, last =
    unpack(ARGV, i, i + WIDTH - 1)
  if records[k] and holds(deadlines[k], token, proposed) and not settled[id] then
    settled[id] = true
    released[#released + 1] = id
    add_event(its_events)
    -- First, so that an address retired by a later message of the same attempt stays retired.
    if got_through == '1' then note_delivery(id, destination) end
    settle[op](id, destination, joined(records[k], tonumber(seen)), record, argument, reason, last)
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end

call_many('ZREM', LEASES, released)
call_many('HDEL', JOBS, deleted)
call_many('HDEL', STANDING, cleared)
call_many('HSET', JOBS, written)
call_many('ZADD', DELIVERED, delivered)
for destination in pairs(delivered_there) do redis.call('HSET', pace_key(destination), 'delivered', NOW) end
write_due()
write_journal()
return reply
