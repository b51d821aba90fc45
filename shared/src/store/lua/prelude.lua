-- What every script starts with: names for the shard's keys, the clock, and the few steps that several scripts share.
--
-- KEYS     all of one shard, always in this order; `due:<destination>` and `pace:<destination>` are derived from the
--          shard's prefix, because which destinations a script touches is known only inside it. All share one slot.
-- ARGV[1]  now in ms, or '' to read the server's clock (only tests, simulation and the demo pass an instant)
-- ARGV[2]  the shard's prefix, 'rd:{n}:'
-- ARGV[3]  how many messages a job holds at most
-- ARGV[4]  how long an address is unavailable the first time, in ms; doubled for each time in a row
-- ARGV[5]  how long it is so at most, in ms
-- ARGV[6]  the time in a row that makes it inactive
-- ARGV[7]  how many bytes a record has at most
-- What a script takes beside these starts at ARGV[FIRST].

local AGENDA, JOBS, LEASES, STANDING, UNAVAILABLE, INACTIVE, DELIVERED, JOURNAL = unpack(KEYS)
local PREFIX = ARGV[2]
local MAX_MESSAGES = tonumber(ARGV[3])
local UNAVAILABLE_FOR, UNAVAILABLE_MAX, STRIKES = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local RECORD_MAX = tonumber(ARGV[7])
local FIRST = 8
assert(#KEYS == 8, 'a script takes the 8 keys of a shard')

local function read_clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local NOW = read_clock()

local function due_key(destination) return PREFIX .. 'due:' .. destination end
local function pace_key(destination) return PREFIX .. 'pace:' .. destination end

-- Calls a command that takes many values; one with none is no call.
local function call_many(command, key, values)
  if #values > 0 then redis.call(command, key, unpack(values)) end
end

-- Due times are collected while a script runs and written once per destination, the agenda once per call.
local due_by_destination = {}
local wake_at = {}

local function put_due(destination, id, due)
  local entries = due_by_destination[destination]
  if not entries then
    entries = {}
    due_by_destination[destination] = entries
  end
  entries[#entries + 1] = due
  entries[#entries + 1] = id
  if not wake_at[destination] or due < wake_at[destination] then wake_at[destination] = due end
end

local function write_due()
  for destination, entries in pairs(due_by_destination) do call_many('ZADD', due_key(destination), entries) end
  local wakes = {}
  for destination, at in pairs(wake_at) do
    wakes[#wakes + 1] = at
    wakes[#wakes + 1] = destination
  end
  -- LT: a destination that is worth visiting earlier for another reason stays so.
  if #wakes > 0 then redis.call('ZADD', AGENDA, 'LT', unpack(wakes)) end
  due_by_destination, wake_at = {}, {}
end

-- Events are collected and written as one journal entry. A script gets them as JSON and adds what it alone knows.
local events = {}

local function add_event(json)
  if json ~= '' then events[#events + 1] = json end
end

-- The event with more fields at its end.
local function with_fields(json, fields) return string.sub(json, 1, -2) .. fields .. '}' end

local function write_journal()
  if #events > 0 then redis.call('XADD', JOURNAL, '*', 't', NOW, 'e', '[' .. table.concat(events, ',') .. ']') end
  events = {}
end

-- Message lines: the part of a record behind its head. Each line starts with its line end.

-- The message whose line starts at `from` was given up. Its id is taken as it stands there, as JSON, because decoding a
-- line means decoding its content.
local function add_dropped_event(lines, from, id, destination, reason)
  add_event(
    '{"type":"MessageDropped","job":' .. cjson.encode(id)
      .. ',"destination":' .. cjson.encode(destination)
      .. ',"message":' .. string.match(lines, '^\n{"i":(".-"),"b":%d', from)
      .. ',"reason":"' .. reason .. '"}'
  )
end

local function add_dropped_events(lines, id, destination, reason)
  local from = lines ~= '' and 1
  while from do
    add_dropped_event(lines, from, id, destination, reason)
    from = string.find(lines, '\n', from + 1, true)
  end
end

-- Where the k-th line (1 is the oldest) starts, at its line end; nil where there are fewer.
local function line_at(lines, k)
  local from = 0
  for _ = 1, k do
    from = string.find(lines, '\n', from + 1, true)
    if not from then return nil end
  end
  return from
end

-- Brings lines down to `room` of them and to `bytes`, oldest first, with an event each. `spare` lines stay in any case.
-- One pass and one copy, because copying a large record is what costs.
local function trim_lines(lines, room, bytes, spare, id, destination)
  local count, from = 0, 0
  repeat
    from = string.find(lines, '\n', from + 1, true)
    if from then count = count + 1 end
  until not from
  from = 1
  while count > spare and (count > room or #lines - from + 1 > bytes) do
    add_dropped_event(lines, from, id, destination, 'replaced')
    from = string.find(lines, '\n', from + 1, true) or #lines + 1
    count = count - 1
  end
  return from == 1 and lines or string.sub(lines, from)
end

-- Brings the record of a job that is not leased within its bounds; what goes is the oldest, and never the last.
local function trim(record, id, destination)
  if not line_at(record, MAX_MESSAGES + 1) and #record <= RECORD_MAX then return record end
  local head = string.match(record, '^[^\n]*')
  return head .. trim_lines(string.sub(record, #head + 1), MAX_MESSAGES, RECORD_MAX - #head, 1, id, destination)
end

-- Whether a lease's deadline is one of those that its holder knows: its token, or the one that it asked for last and
-- did not hear back of.
local function holds(deadline, token, proposed)
  local at = deadline and tonumber(deadline)
  return at and (at == tonumber(token) or at == tonumber(proposed))
end

-- Writes an address's standing; returns it as JSON, and as fields for its event. An address that becomes unavailable
-- STRIKES times in a row becomes inactive, unless it is its host that is dead.
local function retire(id, standing, reason, host_dead)
  local record = { s = standing, t = NOW, r = reason, n = 0 }
  if standing == 'unavailable' then
    local known = redis.call('HGET', STANDING, id)
    record.n = (known and cjson.decode(known).n or 0) + 1
    if record.n >= STRIKES and not host_dead then record.s = 'inactive' end
  end
  if record.s == 'unavailable' then
    record.u = NOW + math.min(UNAVAILABLE_FOR * 2 ^ (record.n - 1), UNAVAILABLE_MAX)
    redis.call('ZADD', UNAVAILABLE, record.u, id)
  else
    redis.call('ZREM', UNAVAILABLE, id)
    redis.call('ZADD', INACTIVE, NOW, id)
  end
  local json = cjson.encode(record)
  redis.call('HSET', STANDING, id, json)
  local fields = ',"standing":"' .. record.s .. '"'
  if record.u then fields = fields .. ',"until":' .. string.format('%.0f', record.u) end
  return json, fields
end
