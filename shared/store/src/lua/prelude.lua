-- What every script starts with: names for the shard's keys, the settings, the clock, and the steps
-- that several scripts share.
--
-- KEYS     all the keys of one shard, always in this order. They share one slot. Keys such as
--          `due:<destination>` and `pace:<destination>` are not listed: only the script finds out
--          which of them it needs, and derives them from the shard's prefix.
--          The last key, `whole`, is never written. While a Cluster moves the slot to another
--          node, Redis refuses a script that names a key which is on neither node. Without
--          `whole` a script could start, meet a key that has moved already, and end halfway.
-- ARGV     the settings listed below, those listed in pace.lua, then the arguments that the script
--          lists in its own header. argument_lists.rs declares a local for each name on a list.
--
-- Settings:
--   GIVEN_NOW                 now in ms, or '' to read the server's clock (only tests, the
--                             simulation and the demo pass an instant)
--   PREFIX                    the shard's prefix, 'rd:{n}:'
--   MAX_MESSAGES (number)     how many messages a job holds at most
--   RECORD_MAX (number)       how many bytes a record has at most; twice as many while it is leased
--   UNAVAILABLE_FOR (number)  how long an address is unavailable the first time, in ms; doubled for
--                             each time in a row
--   UNAVAILABLE_MAX (number)  how long an address is unavailable at most, in ms
--   STRIKES (number)          how many times in a row an address may become unavailable: the last
--                             of them makes it inactive
--   MAX_LAPSES (number)       how many times in a row a job may lapse: the last of them puts it
--                             into quarantine

local AGENDA, JOBS, LEASES, MEANWHILE, LAPSES, QUARANTINE, STANDING, UNAVAILABLE, INACTIVE, JOURNAL,
  SERIAL, LEASED = unpack(KEYS)
assert(#KEYS == 13, 'a script takes the 13 keys of a shard')

local function read_clock()
  if GIVEN_NOW ~= '' then return tonumber(GIVEN_NOW) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whole numbers are passed to commands as text that is made here. The server would print a float
-- with all its digits, and that is slow.
local function text(number) return string.format('%d', number) end

local NOW = read_clock()
local NOW_TEXT = text(NOW)

local WEEK_MS = 7 * 86400000

-- The key of the jobs that only wait until the peer of a route can be reached again: a zset,
-- 'destination id' → when the job is due. An entry means nothing if the job is due at another time.
local function route_key(route) return PREFIX .. 'route:' .. route end
local function pace_key(destination) return PREFIX .. 'pace:' .. destination end
-- The key of the deliveries of one week. Old deliveries are deleted together with their week's key.
local function delivered_key(weeks_ago)
  return PREFIX .. 'delivered:' .. math.floor(NOW / WEEK_MS) - weeks_ago
end

-- Returns a stored instant, or -1 if it lies in the future. It was stored before the clock was set
-- back then, and means nothing any more.
local function past(noted) return noted <= NOW and noted or -1 end

-- Calls a command that takes many values. Does nothing if there are none.
local function call_many(command, key, values)
  if #values > 0 then redis.call(command, key, unpack(values)) end
end

-- The id of the last journal entry that this call wrote, '' if it wrote none. The caller remembers
-- it, to notice if Redis loses the entry.
local journaled = ''

-- The changes that the caller logs, three texts for each: what changed ('opened', 'probed' or
-- 'closed': a breaker; 'quarantined': a job), the destination, and the job's id, '' if the change
-- is about no job.
local to_log = {}

local function note_change(what, destination, id)
  local size = #to_log
  to_log[size + 1], to_log[size + 2], to_log[size + 3] = what, destination, id
end

-- Writes a journal entry: a JSON array of events. An array that needs no change is passed on as it
-- came, because Lua reads each byte of every text that it makes.
local function write_events(array)
  if array ~= '[]' then journaled = redis.call('XADD', JOURNAL, '*', 't', NOW_TEXT, 'e', array) end
end

-- Other events are collected and written as one entry. A script receives them as JSON and adds what
-- only the script knows.
local events = {}

local function add_event(json)
  if json ~= '' then events[#events + 1] = json end
end

-- Returns the field of an event that names the token of the client that caused it. `by` is '' if
-- the client has none.
local function by_field(by) return by == '' and '' or ',"by":' .. cjson.encode(by) end

local function write_journal()
  write_events('[' .. table.concat(events, ',') .. ']')
  events = {}
end

-- Records that a value was unreadable and was repaired. `what` names the value; `kind` is the kind
-- of its owner, 'destination' or 'job'.
local function note_repaired(what, kind, name)
  add_event(
    '{"type":"ValueReset","' .. kind .. '":' .. cjson.encode(name)
      .. ',"reason":"' .. what .. '"}'
  )
end

-- Adds to the integer in a field of a hash, and returns the sum. A value that is not an integer
-- counts from 0 again.
local function count_up(key, field, number)
  local count = redis.pcall('HINCRBY', key, field, number)
  if type(count) == 'number' then return count end
  redis.call('HSET', key, field, number)
  return tonumber(number)
end

-- Message lines: the part of a record after its head. Each line starts with its line end.

-- Returns the number of the attempt in which a relay accepted the message whose line starts at
-- `from`, and when that attempt was claimed. Nil if no relay has accepted it.
local function acceptance_of(lines, from)
  local _, last = string.find(lines, '^\n{"i":".-","b":%d+', from)
  local accepted = last and string.match(lines, '^,"y":({[^}]*})', last + 1)
  if not accepted then return nil end
  local number = string.match(accepted, '"n":(%d+)') or string.match(accepted, '"a":(%d+)')
  return tonumber(number), tonumber(string.match(accepted, '"t":(%d+)') or 0)
end

-- Returns the number of the last attempt for the message whose line starts at `from`. `attempts` is
-- the number of the last attempt of its job.
local function attempt_of(lines, from, attempts)
  return text(acceptance_of(lines, from) or attempts)
end

-- Returns the number of the last attempt of a job; 0 if its head is unreadable. After a delivery
-- the head counts from 0 again, although messages that a relay accepted in that attempt still wait.
local function last_attempt_of(record)
  local read, fields = pcall(cjson.decode, string.match(record, '^[^\n]*'))
  if not read or type(fields) ~= 'table' then fields = {} end
  local last = type(fields.h) == 'table' and fields.h[#fields.h]
  local at = type(last) == 'table' and last.a == fields.a and tonumber(last.t) or -1
  local attempt = tonumber(fields.a) or 0
  local from = string.find(record, '\n', 1, true)
  while from do
    local number, claimed_at = acceptance_of(record, from)
    if number and claimed_at > at then attempt, at = number, claimed_at end
    from = string.find(record, '\n', from + 1, true)
  end
  return attempt
end

-- Adds the event that the message whose line starts at `from` was dropped. The message's id is
-- copied as JSON text, because decoding a line would also decode the message's content.
local function add_dropped_event(lines, from, id, destination, reason, attempts)
  add_event(
    '{"type":"MessageDropped","job":' .. cjson.encode(id)
      .. ',"destination":' .. cjson.encode(destination)
      .. ',"attempt":' .. attempt_of(lines, from, attempts)
      .. ',"message":' .. (string.match(lines, '^\n{"i":(".-"),"b":%d', from) or '""')
      .. ',"reason":"' .. reason .. '"}'
  )
end

local function add_dropped_events(lines, id, destination, reason, attempts)
  local from = lines ~= '' and 1
  while from do
    add_dropped_event(lines, from, id, destination, reason, attempts)
    from = string.find(lines, '\n', from + 1, true)
  end
end

-- Whether there are more than k lines.
local function has_more_lines(lines, k)
  local from = 0
  for _ = 0, k do
    from = string.find(lines, '\n', from + 1, true)
    if not from then return false end
  end
  return true
end

-- Shortens lines to `room` lines and to `bytes` bytes. The oldest go first, each with an event.
-- `keep_at_least` lines always stay. One pass and one copy, because copying a large record is the
-- expensive part. `record` is the record of the job.
local function trim_lines(lines, room, bytes, keep_at_least, id, destination, record)
  local count, from, attempts = 0, 0, nil
  repeat
    from = string.find(lines, '\n', from + 1, true)
    if from then count = count + 1 end
  until not from
  from = 1
  while count > keep_at_least and (count > room or #lines - from + 1 > bytes) do
    attempts = attempts or last_attempt_of(record)
    add_dropped_event(lines, from, id, destination, 'replaced', attempts)
    from = string.find(lines, '\n', from + 1, true) or #lines + 1
    count = count - 1
  end
  return from == 1 and lines or string.sub(lines, from)
end

local function head_of(record) return string.match(record, '^[^\n]*') end

-- Returns the head of a job that starts again with all its attempts. An unreadable head is returned
-- unchanged.
local function restarted_head(head)
  local read, fields = pcall(cjson.decode, head)
  if not read or type(fields) ~= 'table' then return head end
  fields.a, fields.c, fields.o, fields.w = 0, NOW, nil, nil
  return cjson.encode(fields)
end

-- Shortens the record of a job that is not leased to its bounds. The oldest messages go first, and
-- the last one never goes.
local function trim(record, id, destination)
  if #record <= RECORD_MAX and not has_more_lines(record, MAX_MESSAGES) then return record end
  local head = head_of(record)
  local lines, bytes = string.sub(record, #head + 1), RECORD_MAX - #head
  return head .. trim_lines(lines, MAX_MESSAGES, bytes, 1, id, destination, record)
end

-- Returns the serial of a lease, which orders the leases of a shard. A token is '<serial>-<nonce>',
-- and only the whole token identifies the lease: Redis gives a serial again if it loses its last
-- writes, but no two claims have the same nonce. A token that cannot be read comes before all
-- others.
local function serial_of(token) return tonumber(string.match(token, '^%d+') or 0) end

-- Reads what happened to a job while it was leased: 'void joined'. `void` is the serial up to which
-- leases on the job are void (0: none is). `joined` is how many bytes the record had when the first
-- message joined (0: none did). If a mark cannot be read, all leases on the job are void: its
-- attempt counts as lost, and upkeep finds the job with all that joined.
local function read_mark(mark)
  if not mark then return 0, 0 end
  local void, joined = string.match(mark, '^(%d+) (%d+)$')
  if not void then return math.huge, 0 end
  return tonumber(void), tonumber(joined)
end

-- Records that the messages which joined are settled. Leases from before the job's address was
-- retired stay void.
local function settle_joined(id, void)
  if void > 0 then
    redis.call('HSET', MEANWHILE, id, text(void) .. ' 0')
  else
    redis.call('HDEL', MEANWHILE, id)
  end
end

local STANDINGS = { active = true, unavailable = true, inactive = true, suppressed = true }

local function is_standing(record)
  return type(record) == 'table'
    and STANDINGS[record.s]
    and type(record.t) == 'number'
    and (record.n == nil or type(record.n) == 'number')
    and (type(record.u) == 'number' or record.u == nil and record.s ~= 'unavailable')
end

-- Reads the record of a standing. An unreadable record counts as suppressed: the address gets no
-- mail until an operator reinstates it. The other addresses of the batch are not affected.
local function read_standing(json)
  local read, standing = pcall(cjson.decode, json)
  if read and is_standing(standing) then return standing end
  return { s = 'suppressed', t = 0, n = 0, r = 'unreadable' }
end

-- Writes an address's standing with its evidence, which is JSON. Returns the standing as JSON, as
-- fields for its event, and as a word. An address that becomes unavailable STRIKES times in a row
-- becomes inactive, unless its host is down.
local function retire(id, standing, reason, host_down, evidence)
  local record = { s = standing, t = NOW, r = reason, n = 0 }
  if standing == 'unavailable' then
    local known = redis.call('HGET', STANDING, id)
    record.n = (known and read_standing(known).n or 0) + 1
    if record.n >= STRIKES and not host_down then record.s = 'inactive' end
  end
  if record.s == 'unavailable' then
    record.u = NOW + math.min(UNAVAILABLE_FOR * 2 ^ (record.n - 1), UNAVAILABLE_MAX)
    redis.call('ZADD', UNAVAILABLE, text(record.u), id)
  else
    redis.call('ZREM', UNAVAILABLE, id)
    redis.call('ZADD', INACTIVE, NOW_TEXT, id)
  end
  local json = cjson.encode(record)
  if evidence ~= '' then json = string.sub(json, 1, -2) .. ',"e":' .. evidence .. '}' end
  redis.call('HSET', STANDING, id, json)
  local fields = ',"standing":"' .. record.s .. '"'
  if record.u then fields = fields .. ',"until":' .. text(record.u) end
  return json, fields, record.s
end
