-- Takes in a batch of facts about addresses of one shard. Signs of life end the messages that wait,
-- or lift a standing. Complaints and the like suppress the address. An operator may lift any
-- standing.
--
-- Takes:
--   by           the name of the client's token, or ''
-- Takes for each FACT:
--   id           account/recipient
--   destination
--   what         'delivered', 'engaged', 'reinstate', or 'suppress reason'
--   occurred     ms, or '' if that is unknown: then it counts as now
--   message      the message's id as JSON, or ''
--   source       the way by which it came in
--   note         what an operator wrote as the reason of a command, or ''
-- Reply: now, then 2 per fact: answer and detail; then the id of the journal entry that was
-- written, '' if none was. The answers:
--   'closed'      the job ended
--   'resumed'     what still waits is due now
--   'reinstated'  the address is active again
--   'suppressed'  the address was suppressed before; detail is the standing's JSON
--   'newly suppressed'  the address is suppressed by this fact; detail is the standing's JSON
--   'stale'       it happened before what is known
--   'ended'       the message that it names has ended; the rest of the job keeps its due time
--   'noted'       there was nothing to change
-- Full memory: refused, because nothing bounds how many facts come: the client is answered 503 and
-- repeats the request. No new attempt begins meanwhile.
-- Cost: 4 operations for a batch, and 2 more if something was delivered; 9 per job that ends, 5 per
-- address whose standing changes, 6 per job that is resumed. Atomic; repeating it changes nothing.

-- A job that was tried within this time is not tried again because of a sign of life. A recipient
-- that opens ten mails is alive once.
local REST_MS = 3600000

local SUPPRESSED = PREFIX .. 'suppressed'

local ids = {}
for i = FACT_AT, #ARGV, FACT_WIDTH do ids[#ids + 1] = ARGV[i] end
if #ids == 0 then return { NOW, '' } end

-- The current state of each address. It is updated during the batch, because several facts of a
-- batch may be for the same address.
local record_of, standing_of, delivered_of = {}, {}, {}
local records = redis.call('HMGET', JOBS, unpack(ids))
local standings = redis.call('HMGET', STANDING, unpack(ids))
for k, id in ipairs(ids) do
  if records[k] then record_of[id] = records[k] end
  if standings[k] then standing_of[id] = standings[k] end
end
for weeks_ago = 1, 0, -1 do
  for k, at in ipairs(redis.call('HMGET', delivered_key(weeks_ago), unpack(ids))) do
    if at then delivered_of[ids[k]] = tonumber(at) end
  end
end

-- Jobs whose messages are due now, with their destinations; and deliveries that were not known.
local resumed, delivered = {}, {}

local function event_of(kind, id, destination, fields)
  add_event(
    '{"type":"' .. kind .. '","job":' .. cjson.encode(id)
      .. ',"destination":' .. cjson.encode(destination) .. fields .. by_field(by) .. '}'
  )
end

local function lines_of(record) return string.match(record, '\n.*') or '' end

-- Returns when the job last failed, by its history or by its messages' bounces; and when it was
-- last tried.
local function last_failure(record)
  local read, head = pcall(cjson.decode, head_of(record))
  local tries = read and type(head) == 'table' and head.h
  local last = type(tries) == 'table' and tries[#tries]
  local tried = type(last) == 'table' and tonumber(last.t) or 0
  local newest = tried
  for at in string.gmatch(record, '\n{"i":".-","b":(%d+)') do
    newest = math.max(newest, tonumber(at))
  end
  return newest, tried
end

-- Whether a worker has the job.
local function is_leased(id, destination)
  return not resumed[id]
    and not find_due(destination, id)
    and not redis.call('ZSCORE', QUARANTINE, id)
end

-- Removes a job, wherever it is. The caller adds its events.
local function end_job(id, destination)
  local waits = remove_due(destination, id)
    or redis.call('ZREM', QUARANTINE, id) == 1
    or resumed[id]
  if not waits then
    -- The job is leased. Its lease is void from here on: its result counts only for the
    -- destination.
    redis.call('HSET', MEANWHILE, id, (redis.call('GET', SERIAL) or '0') .. ' 0')
    end_attempt(destination, probe_of(destination, id), '')
  end
  redis.call('HDEL', JOBS, id)
  redis.call('HDEL', LAPSES, id)
  record_of[id], resumed[id] = nil, nil
end

local function write_standing(id, record)
  local json = cjson.encode(record)
  redis.call('HSET', STANDING, id, json)
  standing_of[id] = json
  for _, key in ipairs({ UNAVAILABLE, INACTIVE, SUPPRESSED }) do redis.call('ZREM', key, id) end
  return json
end

local function clear_standing(id)
  if not standing_of[id] then return end
  redis.call('HDEL', STANDING, id)
  for _, key in ipairs({ UNAVAILABLE, INACTIVE }) do redis.call('ZREM', key, id) end
  standing_of[id] = nil
end

-- Splits the lines of a record into those that a fact ends and those that still wait.
local function cut_lines(lines, what, message)
  if message == '' then
    if what == 'delivered' then return lines, '' end
    return '', lines
  end
  local from = string.find(lines, '\n{"i":' .. message .. ',"b":', 1, true)
  if not from then return '', lines end
  local next_line = string.find(lines, '\n', from + 1, true) or #lines + 1
  local other_lines = string.sub(lines, 1, from - 1) .. string.sub(lines, next_line)
  return string.sub(lines, from, next_line - 1), other_lines
end

local function attempt_field(attempt) return ',"attempt":' .. text(attempt) end

local function add_delivered_events(lines, id, destination, attempts)
  local from = lines ~= '' and 1
  while from do
    local message = string.match(lines, '^\n{"i":(".-"),"b":%d', from) or '""'
    local fields = attempt_field(attempt_of(lines, from, attempts))
      .. ',"message":' .. message .. ',"reason":"reported"'
    event_of('MessageDelivered', id, destination, fields)
    from = string.find(lines, '\n', from + 1, true)
  end
end

-- Processes a sign of life for an address that has a job. The message that the fact names has got
-- through. The rest is due at once, with all its attempts. If the named message does not wait,
-- nothing is brought forward: it may be a waiting message under another name.
local function revive_job(id, destination, what, at, message)
  local record = record_of[id]
  local failed, tried = last_failure(record)
  if at < past(failed) then return 'stale', '' end
  local ended, rest = cut_lines(lines_of(record), what, message)
  local attempts = last_attempt_of(record)
  if rest == '' then
    add_delivered_events(ended, id, destination, attempts)
    local fields = attempt_field(attempts) .. ',"reason":"' .. what .. '"'
    event_of('JobClosed', id, destination, fields)
    end_job(id, destination)
    clear_standing(id)
    return 'closed', ''
  end
  if message ~= '' and ended == '' then return 'noted', '' end
  -- A worker has a copy of what waits and is trying it now. Its attempt will find out what the fact
  -- could have changed.
  if is_leased(id, destination) then return 'noted', '' end
  local in_quarantine = redis.call('ZSCORE', QUARANTINE, id)
  local rests = resumed[id] or in_quarantine or NOW - past(tried) < REST_MS
  if ended == '' and rests then return 'noted', '' end
  add_delivered_events(ended, id, destination, attempts)
  clear_standing(id)
  local head = head_of(record)
  if not rests then
    head = restarted_head(head)
    resumed[id] = destination
  end
  record_of[id] = head .. rest
  redis.call('HSET', JOBS, id, record_of[id])
  if rests then return 'ended', '' end
  return 'resumed', NOW_TEXT
end

local function revive(id, destination, what, occurred, message)
  local at = math.min(occurred or NOW, NOW)
  if what == 'delivered' and at > (delivered_of[id] or -1) then
    delivered_of[id] = at
    delivered[id] = text(at)
  end
  local json = standing_of[id]
  local standing = json and read_standing(json)
  if standing and standing.s == 'suppressed' then return 'suppressed', json end
  if record_of[id] then return revive_job(id, destination, what, at, message) end
  -- A standing that an operator lifted stays recorded, so that a complaint from before is not taken
  -- for a new one.
  local lifted = standing and standing.s == 'active' and standing.r == 'operator'
  if not standing or lifted then return 'noted', '' end
  if at < past(standing.t) then return 'stale', '' end
  clear_standing(id)
  if standing.s == 'active' then return 'noted', '' end
  event_of('AddressReinstated', id, destination, ',"reason":"' .. what .. '"')
  return 'reinstated', ''
end

local function suppress(id, destination, reason, occurred, source, note)
  local json = standing_of[id]
  local standing = json and read_standing(json)
  if standing and standing.s == 'suppressed' then return 'suppressed', json end
  local taken_back = standing and standing.s == 'active' and standing.r == 'operator'
  if taken_back and occurred and occurred <= past(standing.t) then return 'stale', '' end
  local evidence = { o = source, t = math.min(occurred or NOW, NOW) }
  if note ~= '' then evidence.n = note end
  local fields = ''
  if record_of[id] then
    evidence.a = last_attempt_of(record_of[id])
    fields = attempt_field(evidence.a)
    add_dropped_events(lines_of(record_of[id]), id, destination, 'suppressed', evidence.a)
    end_job(id, destination)
  end
  json = write_standing(id, { s = 'suppressed', t = NOW, r = reason, n = 0, e = evidence })
  redis.call('ZADD', SUPPRESSED, NOW_TEXT, id)
  fields = fields .. ',"standing":"suppressed","reason":"' .. reason .. '"'
    .. ',"source":' .. cjson.encode(source)
  if evidence.n then fields = fields .. ',"note":' .. cjson.encode(evidence.n) end
  event_of('AddressSuppressed', id, destination, fields)
  return 'newly suppressed', json
end

local function reinstate(id, destination)
  local json = standing_of[id]
  local standing = json and read_standing(json)
  if not standing or standing.s == 'active' then return 'noted', '' end
  write_standing(id, { s = 'active', t = NOW, r = 'operator', n = 0 })
  event_of('AddressReinstated', id, destination, ',"reason":"operator"')
  return 'reinstated', ''
end

local reply = { NOW }
for i = FACT_AT, #ARGV, FACT_WIDTH do
  local id, destination, what, occurred, message, source, note =
    unpack(ARGV, i, i + FACT_WIDTH - 1)
  local reason = string.match(what, '^suppress (.*)$')
  local answer, detail
  if reason then
    answer, detail = suppress(id, destination, reason, tonumber(occurred), source, note)
  elseif what == 'reinstate' then
    answer, detail = reinstate(id, destination)
  else
    answer, detail = revive(id, destination, what, tonumber(occurred), message)
  end
  reply[#reply + 1] = answer
  reply[#reply + 1] = detail
end

local writes = {}
for id, at in pairs(delivered) do
  writes[#writes + 1] = id
  writes[#writes + 1] = at
end
call_many('HSET', delivered_key(0), writes)
for id, destination in pairs(resumed) do
  remove_due(destination, id)
  put_due(destination, id, NOW)
end
write_pace()
write_due()
write_journal()
reply[#reply + 1] = journaled
return reply
