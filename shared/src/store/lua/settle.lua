-- Reports how a batch of attempts of one shard ended. A settle with a stale token changes nothing.
--
-- ARGV from FIRST:
--   call      names this call: repeated, it is answered as it was and changes nothing
--   keep      for how long its answer is kept, in ms
--   events    JSON objects, joined by commas, of all jobs whose op is not 'retire', in their order
--   lengths   how long each of these jobs' events are, and how much of that is the last one with its comma: 'a b a b …'
--   n, g      how many jobs, in how many groups of those that are alike
--   6 per group:
--     token        the lease; groups of one lease stand together
--     destination
--     op           'retry' (it waits again), 'close' (it ends) or 'retire' (it ends, and the address with it)
--     marks        'd' where a message got through; then what it says of the destination: '+', '-', '~' or '' (pace.lua)
--     tally        the field of the destination's tally that counts these attempts
--     count        how many jobs
--   n ids         account/recipient, in the order of the groups
--   2 per job whose op is not 'close', in this order:
--     argument     retry: delay in ms; retire: 'standing last row', with how long the last event is, and '!' before the row
--                  where the host is dead
--     record       retry: the new record; retire: its events, the last of which gets the standing
-- Reply: now; a text with 1 or 0 per job: settled, or the token was stale; and 1 where the shard is worth a visit now,
-- because there is room again or something is due at once, else 0.
-- Cost: 8 operations, 4 per lease, 4 per destination and 1 per tally; 4 more per retired address. Atomic.

local CALL, KEEP, EVENTS, LENGTHS, N, G = unpack(ARGV, FIRST, FIRST + 5)
N, G = tonumber(N), tonumber(G)
local GROUPS, GROUP_WIDTH = FIRST + 6, 6
local IDS = GROUPS + GROUP_WIDTH * G - 1
local EXTRAS = IDS + N + 1
assert((#ARGV - EXTRAS + 1) % 2 == 0, 'settle takes 2 values per job that does not close')

local TALLY_KEEP_S = 100 * 86400
local DAY_MS = 86400000

local answer_key = PREFIX .. 'settled:' .. CALL
local answered = redis.call('GET', answer_key)
if answered then return { NOW, answered, 0 } end

local groups = {}
do
  local first = 1
  for i = GROUPS, IDS, GROUP_WIDTH do
    local token, destination, op, marks, tally, count = unpack(ARGV, i, i + GROUP_WIDTH - 1)
    local last = first + tonumber(count) - 1
    groups[#groups + 1] =
      { token = token, destination = destination, op = op, marks = marks, tally = tally, first = first, last = last }
    first = last + 1
  end
end

-- Jobs that are not in the leases that they are settled under, by number; mostly none. Takes the others out, so that none
-- is settled twice.
local stale = {}

local function check_lease(token, first, last)
  local key = lease_key(token)
  local members = redis.call('SMISMEMBER', key, unpack(ARGV, IDS + first, IDS + last))
  local removed = redis.call('SREM', key, unpack(ARGV, IDS + first, IDS + last))
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', LEASES, token) end
  if removed == last - first + 1 then return end
  local seen = {}
  for k = first, last do
    local id = ARGV[IDS + k]
    if members[k - first + 1] == 0 or seen[id] then stale[k] = true end
    seen[id] = true
  end
end

do
  local g = 1
  while g <= G do
    local token, first = groups[g].token, groups[g].first
    while g < G and groups[g + 1].token == token do g = g + 1 end
    check_lease(token, first, groups[g].last)
    g = g + 1
  end
end

-- What happened to them meanwhile; mostly nothing, to none.
local marks = {}
if redis.call('HLEN', MEANWHILE) > 0 then marks = redis.call('HMGET', MEANWHILE, unpack(ARGV, IDS + 1, IDS + N)) end

local settled, deleted, written, delivered, cleared = {}, {}, {}, {}, {}
local tallies = {}
local retired_events = {}
-- Jobs by number whose events are not to be written as they came: 'none', or 'closing' without the last one.
local altered, any_altered = {}, false

local function keep(id, record)
  written[#written + 1] = id
  written[#written + 1] = record
end

-- What joined while the job was leased, and the record's head.
local function joined_lines(id, from)
  local record = redis.call('HGET', JOBS, id)
  return string.sub(record, from + 1), head_of(record)
end

local function note_delivery(id)
  delivered[#delivered + 1] = id
  delivered[#delivered + 1] = NOW_TEXT
  cleared[#cleared + 1] = id
end

local function settle_retry(id, destination, joined, delay, record)
  local due = NOW + tonumber(delay)
  if joined > 0 then record = trim(record .. joined_lines(id, joined), id, destination) end
  keep(id, record)
  put_due(destination, id, due)
end

local function settle_close(k, id, destination, joined)
  if joined == 0 then
    deleted[#deleted + 1] = id
    return
  end
  -- It goes on at once with what joined, as a job that has all its attempts before it.
  local lines, head = joined_lines(id, joined)
  head = cjson.decode(head)
  head.a, head.c, head.o = 0, NOW, nil
  keep(id, trim(cjson.encode(head) .. lines, id, destination))
  put_due(destination, id, NOW)
  altered[k], any_altered = 'closing', true
end

local function settle_retire(id, destination, joined, argument, its_events)
  local standing, last, dead, reason = string.match(argument, '^(%S+) (%d+) (!?)(.*)$')
  -- A delivery in the same attempt has cleared the count of times in a row, which retiring reads.
  if cleared[#cleared] == id then redis.call('HDEL', STANDING, table.remove(cleared)) end
  local _, fields = retire(id, standing, reason, dead ~= '')
  deleted[#deleted + 1] = id
  return function()
    add_event(string.sub(its_events, 1, -last - 2))
    if joined > 0 then add_dropped_events(joined_lines(id, joined), id, destination, 'retired') end
    add_event(string.sub(its_events, -last, -2) .. fields .. '}')
  end
end

local answers = {}

-- Settles one job of a group, unless its token turns out to be stale. Whether it did, and whether it was in flight.
local function settle_job(group, k, argument, record)
  if stale[k] then return false, false end
  local id, joined = ARGV[IDS + k], 0
  if marks[k] then
    local void
    void, joined = read_mark(marks[k])
    -- The address was retired meanwhile: the attempt is news of its destination, and of nothing else.
    if tonumber(group.token) <= void then return false, true end
    if joined > 0 then unmark(id, void) end
  end
  settled[#settled + 1] = id
  -- First, so that an address retired by a later message of the same attempt stays retired.
  if group.got_through then note_delivery(id) end
  if group.op == 'close' then
    settle_close(k, id, group.destination, joined)
  elseif group.op == 'retry' then
    settle_retry(id, group.destination, joined, argument, record)
  else
    retired_events[#retired_events + 1] = settle_retire(id, group.destination, joined, argument, record)
  end
  return true, true
end

local function settle_group(group, extra)
  group.got_through = string.byte(group.marks) == 100
  local mark = group.got_through and string.sub(group.marks, 2) or group.marks
  local done, ended = 0, 0
  for k = group.first, group.last do
    local argument, record
    if group.op ~= 'close' then
      argument, record = ARGV[extra], ARGV[extra + 1]
      extra = extra + 2
    end
    local is_settled, was_leased = settle_job(group, k, argument, record)
    answers[k] = is_settled and '1' or '0'
    if is_settled then
      done = done + 1
    else
      altered[k], any_altered = 'none', true
    end
    if was_leased then ended = ended + 1 end
  end
  if ended > 0 then end_attempts(group.destination, group.token, mark, ended, done) end
  if done > 0 then
    if group.got_through then report_of(group.destination).delivered = true end
    local fields = tallies[group.destination] or {}
    tallies[group.destination] = fields
    fields[group.tally] = (fields[group.tally] or 0) + done
  end
  return extra
end

do
  local extra = EXTRAS
  for _, group in ipairs(groups) do extra = settle_group(group, extra) end
end

-- Events as they came, but for those of jobs that were not settled, or go on.
local function add_events_one_by_one()
  local next_event, from = string.gmatch(LENGTHS, '(%d+) (%d+)'), 1
  for _, group in ipairs(groups) do
    for k = group.first, group.op == 'retire' and 0 or group.last do
      local length, last = next_event()
      length, last = tonumber(length), tonumber(last)
      if altered[k] == 'closing' then
        add_event(string.sub(EVENTS, from, from + length - last - 1))
      elseif not altered[k] then
        add_event(string.sub(EVENTS, from, from + length - 1))
      end
      from = from + length + 1
    end
  end
end

if any_altered then add_events_one_by_one() else add_event(EVENTS) end
for _, write in ipairs(retired_events) do write() end
if redis.call('HLEN', LAPSES) > 0 then call_many('HDEL', LAPSES, settled) end
call_many('HDEL', JOBS, deleted)
call_many('HSET', JOBS, written)
if #cleared > 0 and redis.call('EXISTS', STANDING) == 1 then redis.call('HDEL', STANDING, unpack(cleared)) end
call_many('HSET', delivered_key(0), delivered)
local day = text(math.floor(NOW / DAY_MS))
for destination, fields in pairs(tallies) do
  local key = PREFIX .. 'tally:' .. day .. ':' .. destination
  for field, number in pairs(fields) do
    local sum = redis.call('HINCRBY', key, field, number)
    if sum == number then redis.call('EXPIRE', key, TALLY_KEEP_S, 'NX') end
  end
end
write_pace()
local woke = 0
for _, at in pairs(wake_at) do
  if at <= NOW then woke = 1 end
end
write_due()
write_journal()
local answer = table.concat(answers)
redis.call('SET', answer_key, answer, 'PX', KEEP)
return { NOW, answer, woke }
