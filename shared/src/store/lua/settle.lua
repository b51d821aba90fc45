-- Reports how a batch of attempts of one shard ended. A settle with a stale token changes nothing.
--
-- ARGV from FIRST:
--   call      names this call: repeated, it is answered as it was and changes nothing
--   keep      for how long its answer is kept, in ms
--   events    JSON objects, joined by commas, of all jobs whose op is not 'retire', in their order
--   lengths   how long each of these jobs' events are, and how much of that is the last one with its comma: 'a b a b …'
--   n         how many jobs; then 8 columns of n values:
--     id           account/recipient
--     token        the lease
--     destination
--     op           'retry' (it waits again), 'close' (it ends) or 'retire' (it ends, and the address with it)
--     marks        'd' where a message got through; then what it says of the destination: '+', '-', '~' or '' (pace.lua)
--     tally        the field of the destination's tally that counts this attempt
--     argument     retry: delay in ms; retire: 'standing last row', with how long the last event is, and '!' before the row
--                  where the host is dead; close: ''
--     record       retry: the new record; retire: its events, the last of which gets the standing; close: ''
-- Jobs of one lease stand together.
-- Reply: now, then a text with 1 or 0 per job: settled, or the token was stale.
-- Cost: 8 operations, 4 per lease, 4 per destination and 1 per tally; 4 more per retired address. Atomic.

local CALL, KEEP, EVENTS, LENGTHS, N = unpack(ARGV, FIRST, FIRST + 4)
N = tonumber(N)
local IDS = FIRST + 4
local TOKENS, DESTINATIONS, OPS, MARKS = IDS + N, IDS + 2 * N, IDS + 3 * N, IDS + 4 * N
local TALLIES, ARGUMENTS, RECORDS = IDS + 5 * N, IDS + 6 * N, IDS + 7 * N
assert(#ARGV == IDS + 8 * N, 'settle takes 8 columns')

local TALLY_KEEP_S = 100 * 86400
local DAY_MS = 86400000

local answer_key = PREFIX .. 'settled:' .. CALL
local answered = redis.call('GET', answer_key)
if answered then return { NOW, answered } end

-- Which jobs are still in the leases that they are settled under. Takes them out, so that none is settled twice.
local function check_leases()
  local held = {}
  local from = 1
  while from <= N do
    local token, to = ARGV[TOKENS + from], from
    while to < N and ARGV[TOKENS + to + 1] == token do to = to + 1 end
    local key = lease_key(token)
    local members = redis.call('SMISMEMBER', key, unpack(ARGV, IDS + from, IDS + to))
    local seen = {}
    for k = from, to do
      local id = ARGV[IDS + k]
      held[k] = members[k - from + 1] == 1 and not seen[id]
      seen[id] = true
    end
    redis.call('SREM', key, unpack(ARGV, IDS + from, IDS + to))
    if redis.call('EXISTS', key) == 0 then redis.call('ZREM', LEASES, token) end
    from = to + 1
  end
  return held
end

local held = check_leases()

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

local function note_delivery(id, destination)
  delivered[#delivered + 1] = id
  delivered[#delivered + 1] = NOW_TEXT
  report_of(destination).delivered = true
  cleared[#cleared + 1] = id
end

local function settle_retry(k, id, destination, joined)
  local record, due = ARGV[RECORDS + k], NOW + tonumber(ARGV[ARGUMENTS + k])
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

local function settle_retire(k, id, destination, joined)
  local standing, last, dead, reason = string.match(ARGV[ARGUMENTS + k], '^(%S+) (%d+) (!?)(.*)$')
  -- A delivery in the same attempt has cleared the count of times in a row, which retiring reads.
  if cleared[#cleared] == id then redis.call('HDEL', STANDING, table.remove(cleared)) end
  local _, fields = retire(id, standing, reason, dead ~= '')
  deleted[#deleted + 1] = id
  return function()
    local its_events = ARGV[RECORDS + k]
    add_event(string.sub(its_events, 1, -last - 2))
    if joined > 0 then add_dropped_events(joined_lines(id, joined), id, destination, 'retired') end
    add_event(string.sub(its_events, -last, -2) .. fields .. '}')
  end
end

local function count(destination, tally)
  local fields = tallies[destination]
  if not fields then
    fields = {}
    tallies[destination] = fields
  end
  fields[tally] = (fields[tally] or 0) + 1
end

local answers = {}
for k = 1, N do
  local id, destination, op = ARGV[IDS + k], ARGV[DESTINATIONS + k], ARGV[OPS + k]
  local token, mark = ARGV[TOKENS + k], ARGV[MARKS + k]
  local void, joined = 0, 0
  if marks[k] then void, joined = read_mark(marks[k]) end
  if held[k] then
    local got_through = string.byte(mark) == 100
    if got_through then mark = string.sub(mark, 2) end
    local valid = marks[k] == nil or tonumber(token) > void
    end_attempt(destination, token, mark, valid and 1 or 0)
    if valid then
      settled[#settled + 1] = id
      if joined > 0 then unmark(id, void) end
      -- First, so that an address retired by a later message of the same attempt stays retired.
      if got_through then note_delivery(id, destination) end
      if op == 'close' then
        settle_close(k, id, destination, joined)
      elseif op == 'retry' then
        settle_retry(k, id, destination, joined)
      else
        retired_events[#retired_events + 1] = settle_retire(k, id, destination, joined)
      end
      count(destination, ARGV[TALLIES + k])
      answers[k] = '1'
    end
  end
  if not answers[k] then
    answers[k] = '0'
    altered[k], any_altered = 'none', true
  end
end

local function write_events()
  if not any_altered then
    add_event(EVENTS)
  else
    local from, k = 1, 0
    for length, last in string.gmatch(LENGTHS, '(%d+) (%d+)') do
      repeat k = k + 1 until ARGV[OPS + k] ~= 'retire'
      length, last = tonumber(length), tonumber(last)
      if altered[k] == 'closing' then
        add_event(string.sub(EVENTS, from, from + length - last - 1))
      elseif not altered[k] then
        add_event(string.sub(EVENTS, from, from + length - 1))
      end
      from = from + length + 1
    end
  end
  for _, write in ipairs(retired_events) do write() end
end

write_events()
if redis.call('HLEN', LAPSES) > 0 then call_many('HDEL', LAPSES, settled) end
call_many('HDEL', JOBS, deleted)
call_many('HSET', JOBS, written)
call_many('HDEL', STANDING, cleared)
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
write_due()
write_journal()
local answer = table.concat(answers)
redis.call('SET', answer_key, answer, 'PX', KEEP)
return { NOW, answer }
