-- Takes in a batch of bounces of one shard: starts jobs, lets messages join, retires addresses.
--
-- Takes:
--   EVENTS        a JSON array with a JobScheduled event per bounce; each ends with `delay` and
--                 `occurred`
--   LENGTHS       how long each of these events is
--   DISTINCT      1 if no two of the bounces belong to the same job
--   N (number)    how many bounces
--   G (number)    in how many groups of the same destination and account
--   M (number)    how many of the destinations have limits of their own
-- Takes for each LIMITED (M):
--   limited_destination
--   limits        'rate burst window'
-- Takes for each GROUP (G):
--   destination
--   bounces       how many of the bounces; all bounces of a group follow each other
-- Takes for each ID (N):
--   id            account/recipient
-- Takes for each RECORD (N):
--   record        the job's record with this one message
-- Takes for each VERDICT (N):
--   verdict       a delay in ms; or 'drop' (the message is given up); or 'standing row', a line end
--                 and the evidence as JSON (the address is retired)
-- Takes for each INSTANT (N):
--   occurred      when it happened, in ms, or '' if that is unknown
-- Reply: now; a text with a letter per bounce (s scheduled, j joined, u duplicate, t stale, n
-- newly retired, r retired before, d dropped, a accepted: the message waits for confirmation, and
-- nothing has changed); then a detail per bounce (scheduled, joined: due in ms, '' while it does
-- not wait; retired: the standing's JSON; accepted: the job's record; else ''); then the id of the
-- journal entry that was written, '' if none was.
-- Full memory: refused, because it takes work in: the client is answered 503 and repeats the
-- request.
-- Cost: 8 operations and 2 per destination for a batch; 2 more per joining message, 9 more per
-- retired address; 4 more if messages are dropped; 3 more per account that is not the first at its
-- destination (due.lua). Atomic.

-- The values of the k-th bounce are at ARGV[IDS + k] and so on.
local IDS, RECORDS = ID_AT - 1, RECORD_AT - 1
local VERDICTS, INSTANTS = VERDICT_AT - 1, INSTANT_AT - 1
if N == 0 then return { NOW, '', '' } end

for i = LIMITED_AT, GROUP_AT - 1, LIMITED_WIDTH do
  local limited_destination, limits = unpack(ARGV, i, i + LIMITED_WIDTH - 1)
  -- Repairs a pace that cannot be read.
  read_pace(limited_destination)
  redis.call('HSET', pace_key(limited_destination), 'limits', limits)
end

local records = redis.call('HMGET', JOBS, unpack(ARGV, IDS + 1, IDS + N))
local standings = redis.call('HMGET', STANDING, unpack(ARGV, IDS + 1, IDS + N))

local is_stale
do
  -- When a message was last delivered to the address of each bounce, as far back as this is kept.
  local last_delivered = {}
  for weeks_ago = 1, 0, -1 do
    if redis.call('EXISTS', delivered_key(weeks_ago)) == 1 then
      local key = delivered_key(weeks_ago)
      for k, at in ipairs(redis.call('HMGET', key, unpack(ARGV, IDS + 1, IDS + N))) do
        if at then last_delivered[k] = tonumber(at) end
      end
    end
  end

  function is_stale(k)
    local occurred = last_delivered[k] and tonumber(ARGV[INSTANTS + k])
    return occurred and occurred <= past(last_delivered[k])
  end
end

local function due_after(k, delay)
  local occurred = tonumber(ARGV[INSTANTS + k])
  return occurred and math.max(NOW, math.min(occurred, NOW) + delay) or NOW + delay
end

-- The current state of each address. It is updated during the batch, because several bounces of a
-- batch may be for the same address.
local record_of, standing_of, due_of, changed = {}, {}, {}, {}
for k = 1, N do
  local id = ARGV[IDS + k]
  if records[k] then record_of[id] = records[k] end
  if standings[k] then standing_of[id] = standings[k] end
end

-- Returns the standing's JSON and its name if the address is not active now.
local function not_active(id)
  local json = standing_of[id]
  if not json then return nil end
  local standing = read_standing(json)
  if standing.s == 'active' or (standing.u and standing.u <= NOW) then return nil end
  return json, standing.s
end

local function start_job(id, destination, record, due)
  record_of[id] = record
  due_of[id] = due
  changed[id] = destination
  return 's', text(due)
end

-- Returns how the line of a record's first message starts, and the whole line. Both include the
-- line end before the line.
local function first_message(record)
  local line = string.match(record, '^[^\n]*(\n.*)$')
  return string.match(line, '^(\n{"i":".-",)"b":%d'), line
end

-- Lines that joined in this batch, by job. They are put into the job's record together.
local joining = {}

local function holds_message(id, start)
  if record_of[id] and string.find(record_of[id], start, 1, true) then return true end
  for _, line in ipairs(joining[id] or {}) do
    if string.sub(line, 1, #start) == start then return true end
  end
  return false
end

-- Whether a relay has accepted this message. If so, a bounce of it is the failure of that attempt.
local function is_accepted(id, start)
  local _, last = string.find(record_of[id] or '', '\n' .. string.sub(start, 2), 1, true)
  return last and string.find(record_of[id], '^"b":%d+,"y":', last + 1)
end

local function due_at(id, destination)
  return due_of[id] or tonumber(find_due(destination, id))
end

local function join_job(id, destination, line)
  joining[id] = joining[id] or {}
  table.insert(joining[id], line)
  changed[id] = destination
  local due = due_at(id, destination)
  return 'j', due and text(due) or ''
end

local function write_joined(id, destination)
  local joined = table.concat(joining[id])
  local record = record_of[id]
  joining[id] = nil
  if due_at(id, destination) or redis.call('ZSCORE', QUARANTINE, id) then
    record_of[id] = trim(record .. joined, id, destination)
    return
  end
  -- The worker that leased the job relies on the bytes that it saw. Only lines after them may go.
  local void, seen = read_mark(redis.call('HGET', MEANWHILE, id))
  if seen == 0 then
    seen = #record
    if void < math.huge then redis.call('HSET', MEANWHILE, id, text(void) .. ' ' .. text(seen)) end
  end
  local behind = string.sub(record, seen + 1) .. joined
  local bytes = 2 * RECORD_MAX - seen
  record_of[id] = string.sub(record, 1, seen)
    .. trim_lines(behind, MAX_MESSAGES, bytes, 0, id, destination, record)
end

local function end_job(id, destination)
  local lines = string.match(record_of[id], '\n.*') or ''
  local attempts = last_attempt_of(record_of[id])
  add_dropped_events(lines, id, destination, 'retired', attempts)
  local waits = due_of[id]
    or remove_due(destination, id)
    or redis.call('ZREM', QUARANTINE, id) == 1
  if not waits then
    -- The job is leased. Its lease is void from here on: its result counts only for the
    -- destination.
    redis.call('HSET', MEANWHILE, id, (redis.call('GET', SERIAL) or '0') .. ' 0')
    end_attempt(destination, probe_of(destination, id), '')
  end
  redis.call('HDEL', JOBS, id)
  redis.call('HDEL', LAPSES, id)
  record_of[id], due_of[id], changed[id] = nil, nil, nil
end

local function event_of(kind, scheduled, fields)
  -- The last fields of a JobScheduled event mean nothing in other events.
  local body = string.match(scheduled, '^{"type":"JobScheduled",(.*),"delay":')
  add_event('{"type":"' .. kind .. '",' .. body .. (fields or '') .. '}')
end

local function retire_address(id, destination, start, verdict, scheduled)
  local standing, reason, evidence = string.match(verdict, '^(%S+) ([^\n]*)\n(.*)$')
  local known, state = not_active(id)
  -- A repeated request must not count as one more time in a row.
  if known and (state ~= 'unavailable' or standing == 'unavailable') then return 'r', known end
  local waiting = holds_message(id, start)
  if joining[id] then write_joined(id, destination) end
  if record_of[id] then end_job(id, destination) end
  local json, fields = retire(id, standing, reason, false, evidence)
  standing_of[id] = json
  if not waiting then event_of('MessageDropped', scheduled, ',"reason":"retired"') end
  event_of('AddressRetired', scheduled, fields)
  return 'n', json
end

local scheduled_event
do
  local event_ends

  -- Returns the JobScheduled event of the k-th bounce.
  function scheduled_event(k)
    if not event_ends then
      event_ends = { [0] = 0 }
      for length in string.gmatch(LENGTHS, '%d+') do
        event_ends[#event_ends + 1] = event_ends[#event_ends] + 1 + length
      end
    end
    return string.sub(EVENTS, event_ends[k - 1] + 2, event_ends[k])
  end
end

-- Dropped messages are remembered by day: a repeated request finds them, and the keys of a day
-- expire together. A message is stored as 80 bits of its hash, because id and message can take a
-- kilobyte and no reader needs their text here.
local drop, write_dropped
do
  local DAY_MS, DROPPED_KEEP_S = 86400000, 2 * 86400
  local known_drops, new_drops = {}, {}

  local function dropped_key(days_ago)
    return PREFIX .. 'dropped:' .. math.floor(NOW / DAY_MS) - days_ago
  end

  local function digest(id, start) return string.sub(redis.sha1hex(id .. start), 1, 20) end

  -- Finds the messages of this batch that have been dropped before.
  local asked = {}
  for k = 1, N do
    if ARGV[VERDICTS + k] == 'drop' then
      asked[#asked + 1] = digest(ARGV[IDS + k], (first_message(ARGV[RECORDS + k])))
    end
  end
  if #asked > 0 then
    for days_ago = 0, 1 do
      for k, is_known in ipairs(redis.call('SMISMEMBER', dropped_key(days_ago), unpack(asked))) do
        if is_known == 1 then known_drops[asked[k]] = true end
      end
    end
  end

  function drop(id, start, scheduled)
    local message = digest(id, start)
    if not known_drops[message] then
      known_drops[message] = true
      new_drops[#new_drops + 1] = message
      event_of('MessageDropped', scheduled, ',"reason":"given_up"')
    end
    return 'd', ''
  end

  function write_dropped()
    if #new_drops == 0 then return end
    local key = dropped_key(0)
    redis.call('SADD', key, unpack(new_drops))
    redis.call('EXPIRE', key, DROPPED_KEEP_S, 'NX')
  end
end

-- Whether a bounce is the failure of an attempt of ours: a relay has accepted its message, and the
-- bounce is not older than that attempt. A job that a worker has is not judged.
local function is_failed_attempt(k, id, destination, start)
  local from = record_of[id] and string.find(record_of[id], start, 1, true)
  if not from then return false end
  local number, claimed_at = acceptance_of(record_of[id], from)
  local occurred = tonumber(ARGV[INSTANTS + k])
  if not number or occurred and occurred < claimed_at then return false end
  return due_at(id, destination) ~= nil
end

local function process_bounce(k, destination)
  local id, record, verdict = ARGV[IDS + k], ARGV[RECORDS + k], ARGV[VERDICTS + k]
  -- A message that a relay accepted may still bounce, even if another message was delivered since.
  if is_stale(k) and not is_accepted(id, (first_message(record))) then return 't', '' end
  local delay = tonumber(verdict)
  if delay and not standing_of[id] and not record_of[id] then
    return start_job(id, destination, record, due_after(k, delay))
  end
  local start, line = first_message(record)
  if not delay and verdict ~= 'drop' then
    if is_failed_attempt(k, id, destination, start) then return 'a', record_of[id] end
    return retire_address(id, destination, start, verdict, scheduled_event(k))
  end
  local known = not_active(id)
  if known then return 'r', known end
  if holds_message(id, start) then
    if is_accepted(id, start) then return 'a', record_of[id] end
    return 'u', ''
  end
  if not delay then return drop(id, start, scheduled_event(k)) end
  if record_of[id] then
    event_of('MessageJoined', scheduled_event(k))
    return join_job(id, destination, line)
  end
  return start_job(id, destination, record, due_after(k, delay))
end

local answers, reply = {}, { NOW, '' }
local writes = {}
-- How many other events were added before the event of each job that started.
local started, others_before = {}, {}

-- Starts the jobs of bounces whose address has no job and no standing, which are nearly all of
-- them. The other bounces are processed one by one.
local function process_group(first, last, destination)
  local entries, earliest = nil, nil
  for k = first, last do
    local is_new = DISTINCT == '1' and not records[k] and not standings[k]
    local delay = is_new and tonumber(ARGV[VERDICTS + k])
    local answer, detail
    if delay and not is_stale(k) then
      local due = due_after(k, delay)
      answer, detail = 's', text(due)
      entries = entries or due_entries(destination, account_of(ARGV[IDS + k]))
      entries[#entries + 1] = detail
      entries[#entries + 1] = ARGV[IDS + k]
      writes[#writes + 1] = ARGV[IDS + k]
      writes[#writes + 1] = ARGV[RECORDS + k]
      if not earliest or due < earliest then earliest = due end
    else
      answer, detail = process_bounce(k, destination)
    end
    if answer == 's' then
      started[#started + 1] = k
      others_before[#started] = #events
    end
    answers[k], reply[k + 2] = answer, detail
  end
  if earliest then wake(destination, earliest) end
end

do
  local first = 1
  for i = GROUP_AT, ID_AT - 1, GROUP_WIDTH do
    local destination, bounces = unpack(ARGV, i, i + GROUP_WIDTH - 1)
    local last = first + tonumber(bounces) - 1
    process_group(first, last, destination)
    first = last + 1
  end
end
reply[2] = table.concat(answers)

-- The events of jobs that started keep their places among the other events. If there are no other
-- events, the array is written as it came.
if #started == N then
  write_events(EVENTS)
elseif #started > 0 then
  local others = events
  local next_other = 1
  events = {}
  for n, k in ipairs(started) do
    for other = next_other, others_before[n] do add_event(others[other]) end
    next_other = others_before[n] + 1
    add_event(scheduled_event(k))
  end
  for other = next_other, #others do add_event(others[other]) end
end

for id, destination in pairs(changed) do
  if joining[id] then write_joined(id, destination) end
  writes[#writes + 1] = id
  writes[#writes + 1] = record_of[id]
  if due_of[id] then put_due(destination, id, due_of[id]) end
end
call_many('HSET', JOBS, writes)
write_dropped()
write_pace()
write_due()
write_journal()
reply[N + 3] = journaled
return reply
