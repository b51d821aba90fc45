-- Takes in a batch of bounces of one shard: starts jobs, lets messages join, retires addresses.
--
-- ARGV from FIRST, 9 per bounce:
--   op           'retry', 'retire' (the address is dead) or 'drop' (the message is)
--   id           account/recipient
--   destination
--   head         the head's line, for a job that starts
--   message      the message's line, without line end
--   start        how the line of a message with this id starts, line end included
--   occurred     ms, or '' where nobody knows
--   argument     retry: delay in ms; retire: 'standing reason'; drop: ''
--   event        body of its events: JSON without type and outer braces
-- Reply: now, then 2 per bounce: answer ('scheduled', 'joined', 'duplicate', 'stale', 'retired', 'dropped') and detail
-- (scheduled, joined: due in ms, '' while leased; retired: the standing's JSON; else '').
-- Cost: 6 operations and 1 per destination for a batch; 1 more per joining message and per job joined, 6 more per retired
-- address. Atomic.

local WIDTH = 9
assert((#ARGV - FIRST + 1) % WIDTH == 0, 'schedule takes 9 values per bounce')

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i + 1] end
if #ids == 0 then return { NOW } end

-- What is known of each address, kept up to date while the batch goes on, for bounces of one batch may meet.
local record_of, standing_of, delivered_of, due_of, changed = {}, {}, {}, {}, {}
local records = redis.call('HMGET', JOBS, unpack(ids))
local standings = redis.call('HMGET', STANDING, unpack(ids))
local deliveries = redis.call('ZMSCORE', DELIVERED, unpack(ids))
for k, id in ipairs(ids) do
  record_of[id] = records[k] or nil
  standing_of[id] = standings[k] or nil
  delivered_of[id] = deliveries[k] and tonumber(deliveries[k]) or nil
end

local function event(kind, body, fields) add_event('{"type":"' .. kind .. '",' .. body .. (fields or '') .. '}') end

-- The standing's JSON where the address is not active now.
local function not_active(id)
  local json = standing_of[id]
  if not json then return nil end
  local standing = cjson.decode(json)
  if standing.s == 'active' or (standing.u and standing.u <= NOW) then return nil end
  return json, standing.s
end

local function start_job(id, destination, head, message, occurred, delay, body)
  local due = math.max(NOW, math.min(occurred or NOW, NOW) + delay)
  record_of[id] = head .. '\n' .. message
  due_of[id] = due
  changed[id] = destination
  event('JobScheduled', body, ',"due":' .. string.format('%.0f', due))
  return 'scheduled', due
end

-- Lines that joined in this batch, by job: they are put into its record together.
local joining = {}

local function holds_message(id, start)
  if record_of[id] and string.find(record_of[id], start, 1, true) then return true end
  for _, line in ipairs(joining[id] or {}) do
    if string.sub(line, 1, #start) == start then return true end
  end
  return false
end

local function join_job(id, destination, message, body)
  joining[id] = joining[id] or {}
  table.insert(joining[id], '\n' .. message)
  changed[id] = destination
  event('MessageJoined', body)
  return 'joined', due_of[id] or redis.call('ZSCORE', due_key(destination), id) or ''
end

local function write_joined(id, destination)
  local joined = table.concat(joining[id])
  local record = record_of[id]
  joining[id] = nil
  if not redis.call('ZSCORE', LEASES, id) then
    record_of[id] = trim(record .. joined, id, destination)
    return
  end
  -- A leased job's worker counts on the bytes that it saw, at most MAX_MESSAGES lines: what may go is behind them.
  local free = line_at(record, MAX_MESSAGES + 1) or #record + 1
  local seen = string.sub(record, 1, free - 1)
  local behind = string.sub(record, free) .. joined
  record_of[id] = seen .. trim_lines(behind, MAX_MESSAGES, 2 * RECORD_MAX - #seen, 0, id, destination)
end

local function retire_address(id, destination, start, standing, reason, body)
  local known, state = not_active(id)
  -- A repeated request must not count as one more time in a row.
  if known and (state ~= 'unavailable' or standing == 'unavailable') then return 'retired', known end
  local waiting = holds_message(id, start)
  if joining[id] then write_joined(id, destination) end
  if record_of[id] then
    add_dropped_events(string.match(record_of[id], '\n.*'), id, destination, 'retired')
    redis.call('HDEL', JOBS, id)
    redis.call('ZREM', LEASES, id)
    redis.call('ZREM', due_key(destination), id)
    record_of[id], due_of[id], changed[id] = nil, nil, nil
  end
  local json, fields = retire(id, standing, reason, false)
  standing_of[id] = json
  if not waiting then event('MessageDropped', body, ',"reason":"retired"') end
  event('AddressRetired', body, fields)
  return 'retired', json
end

local function take_in(i)
  local op, id, destination, head, message, start = unpack(ARGV, i, i + 5)
  local occurred, argument, body = tonumber(ARGV[i + 6]), ARGV[i + 7], ARGV[i + 8]
  if occurred and delivered_of[id] and occurred <= delivered_of[id] then return 'stale', '' end
  local record = record_of[id]
  if op == 'retire' then
    local standing, reason = string.match(argument, '^(%S+) (.*)$')
    return retire_address(id, destination, start, standing, reason, body)
  end
  local known = not_active(id)
  if known then return 'retired', known end
  if holds_message(id, start) then return 'duplicate', '' end
  if op == 'drop' then
    event('MessageDropped', body, ',"reason":"given_up"')
    return 'dropped', ''
  end
  if record then return join_job(id, destination, message, body) end
  return start_job(id, destination, head, message, occurred, tonumber(argument), body)
end

local reply = { NOW }
for i = FIRST, #ARGV, WIDTH do
  local answer, detail = take_in(i)
  reply[#reply + 1] = answer
  reply[#reply + 1] = detail
end

local writes = {}
for id, destination in pairs(changed) do
  if joining[id] then write_joined(id, destination) end
  writes[#writes + 1] = id
  writes[#writes + 1] = record_of[id]
  if due_of[id] then put_due(destination, id, due_of[id]) end
end
call_many('HSET', JOBS, writes)
write_due()
write_journal()
return reply
