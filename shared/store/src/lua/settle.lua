-- Records how a batch of attempts of one shard ended. A settle with a stale token changes nothing.
--
-- Takes:
--   CALL          names this call: if it is repeated, the first answer is returned and nothing
--                 changes
--   KEEP          for how long the answer is kept, in ms
--   EVENTS        a JSON array with the events of all jobs whose op is not 'retire', in the jobs'
--                 order
--   LENGTHS       how long each of these jobs' events are, and how much of that is the last event
--                 with its comma: 'a b a b …'
--   N (number)    how many jobs
--   G (number)    in how many groups of jobs with the same result
-- Takes for each GROUP (G):
--   token         the lease; all groups of a lease follow each other
--   destination
--   op            'retry' (it waits again), 'close' (it ends) or 'retire' (it ends, and its address
--                 is retired)
--   results       'd' if a message got through; then what it means for the destination: '+', '-',
--                 '~' or '' (pace.lua), or '=' if it means only that a host answered
--   tally         the field of the destination's tally that counts these attempts
--   numbers       of the jobs in their lease, in ranges: 'first-last first-last …'
-- Takes for each ID (N):
--   id            account/recipient, in the order of the groups
-- Takes for each EXTRA, one per job whose op is not 'close', in the order of the ids:
--   argument      retry: delay in ms, and after a space the route if the job only waits until the
--                 route's peer can be reached again; retire: 'standing last row', a line end and
--                 the evidence as JSON: `last` is the length of the last event, and '!' comes
--                 before the row if the host is down
--   record        retry: the new record; retire: its events; the standing is added to the last one
-- Reply: now; a text with a letter per job (1: settled; u, i: settled, and the address is
-- unavailable or inactive now; 0: the token was stale; v: the job was ended meanwhile); then 1 if
-- the shard is worth a visit now, because there is room again or something is due at once, else 0;
-- then the id of the journal entry that was written, '' if none was; then the changes that the
-- caller logs (prelude.lua), none if the call was repeated.
-- Full memory: runs, because a message that was sent must be recorded as sent. All that was leased
-- can be settled once, and nothing more is leased meanwhile. So the growth is bounded: for each
-- permit of a worker one record, its events, and a share of an answer.
-- Cost: 9 operations, 3 per lease, 3 per destination and 2 per tally; 4 more per retired address,
-- 3 more per job that waits for a route. Atomic.

-- The id of the k-th job is ARGV[IDS + k].
local IDS = ID_AT - 1

local answer_key = PREFIX .. 'settled:' .. CALL
local answered = redis.call('GET', answer_key)
if answered then return { NOW, answered, 0, '', {} } end

-- What happened to the jobs while they were leased. Usually nothing happened to any of them.
local marks = {}
if redis.call('HLEN', MEANWHILE) > 0 then
  marks = redis.call('HMGET', MEANWHILE, unpack(ARGV, IDS + 1, IDS + N))
end
local some_lapsed = redis.call('HLEN', LAPSES) > 0
local some_standings = redis.call('EXISTS', STANDING) == 1

local settled, deleted, written, delivered, cleared = {}, {}, {}, {}, {}
local retired_events = {}
-- Jobs, by number, whose events are not written as they came: 'none' are written, or, for
-- 'closing', all but the last one. The events of a job whose address is retired are written
-- separately.
local altered, any_altered = {}, false
local retiring = {}
-- The letter of the answer for each job that has another one than '1', by number.
local letters, any_letters = {}, false

local function keep(id, record)
  written[#written + 1] = id
  written[#written + 1] = record
end

-- Returns what joined while the job was leased, and the record's head.
local function joined_lines(id, from)
  local record = redis.call('HGET', JOBS, id) or ''
  return string.sub(record, from + 1), head_of(record)
end

-- Remembers that a job only waits until a route's peer can be reached again. Entries whose jobs are
-- due by now are forgotten, and all of them if none was added for a week.
local function note_dead_route(route, id, destination, due)
  local key, entry = route_key(route), destination .. ' ' .. id
  local added = redis.pcall('ZADD', key, text(due), entry)
  if type(added) == 'table' and added.err then
    redis.call('DEL', key)
    redis.call('ZADD', key, text(due), entry)
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', NOW_TEXT)
  redis.call('PEXPIRE', key, WEEK_MS)
end

local function note_delivery(id)
  delivered[#delivered + 1] = id
  delivered[#delivered + 1] = NOW_TEXT
  if some_standings then cleared[#cleared + 1] = id end
end

local function settle_retry(id, destination, joined, argument, record)
  local delay, route = tonumber(argument), nil
  if not delay then
    delay, route = string.match(argument, '^(%d+) (.*)$')
  end
  local due = NOW + tonumber(delay)
  if route then note_dead_route(route, id, destination, due) end
  if joined > 0 then record = trim(record .. joined_lines(id, joined), id, destination) end
  keep(id, record)
  put_due(destination, id, due)
end

local function settle_close(k, id, destination, joined)
  if joined == 0 then
    deleted[#deleted + 1] = id
    return
  end
  -- The job starts again at once with what joined, with all its attempts.
  local lines, head = joined_lines(id, joined)
  if lines == '' then
    deleted[#deleted + 1] = id
    return
  end
  keep(id, trim(restarted_head(head) .. lines, id, destination))
  put_due(destination, id, NOW)
  altered[k], any_altered = 'closing', true
end

-- Returns a function that writes the events, and the first letter of the address's standing.
local function settle_retire(id, destination, joined, argument, its_events)
  local standing, last, host_down, reason, evidence =
    string.match(argument, '^(%S+) (%d+) (!?)([^\n]*)\n(.*)$')
  -- A delivery in the same attempt has cleared the count of times in a row, which `retire` reads.
  if cleared[#cleared] == id then redis.call('HDEL', STANDING, table.remove(cleared)) end
  local _, fields, retired_as = retire(id, standing, reason, host_down ~= '', evidence)
  deleted[#deleted + 1] = id
  local function write()
    add_event(string.sub(its_events, 1, -last - 2))
    if joined > 0 then
      local lines = joined_lines(id, joined)
      local attempts = string.match(evidence, '^{"a":(%d+)') or 0
      add_dropped_events(lines, id, destination, 'retired', attempts)
    end
    add_event(string.sub(its_events, -last, -2) .. fields .. '}')
  end
  return write, string.sub(retired_as, 1, 1)
end

-- Settles one job that is in its lease. If the job's address was retired meanwhile, nothing is
-- settled: the attempt counts only for its destination. Returns the letter of the answer.
local function settle_job(k, token, destination, op, got_through, argument, record)
  local id, joined = ARGV[IDS + k], 0
  if marks[k] then
    local void
    void, joined = read_mark(marks[k])
    if serial_of(token) <= void then return 'v' end
    if joined > 0 then settle_joined(id, void) end
  end
  if some_lapsed then settled[#settled + 1] = id end
  -- This comes first, so that an address retired by a later message of the same attempt stays
  -- retired.
  if got_through then note_delivery(id) end
  if op == 'close' then
    settle_close(k, id, destination, joined)
  elseif op == 'retry' then
    settle_retry(id, destination, joined, argument, record)
  else
    local write, letter = settle_retire(id, destination, joined, argument, record)
    retired_events[#retired_events + 1] = write
    return letter
  end
  return '1'
end

-- The lease that is being settled, and its marks, by number.
local token, held

local function settle_group(k, extra, destination, op, results, tally, numbers)
  local got_through = string.byte(results) == 100
  local mark = got_through and string.sub(results, 2) or results
  local has_answered = mark == '+' or mark == '~' or mark == '='
  if mark == '=' then mark = '' end
  local left, done = 0, 0
  for first, last in string.gmatch(numbers, '(%d+)-(%d+)') do
    for number = tonumber(first), tonumber(last) do
      k = k + 1
      local argument, record
      if op ~= 'close' then
        argument, record = ARGV[extra], ARGV[extra + 1]
        extra = extra + EXTRA_WIDTH
        if op == 'retire' then retiring[k] = true end
      end
      local letter = '0'
      if held[number] == HELD then
        held[number] = GONE
        left = left + 1
        letter = settle_job(k, token, destination, op, got_through, argument, record)
      end
      if letter ~= '1' then letters[k], any_letters = letter, true end
      if letter ~= '0' and letter ~= 'v' then
        done = done + 1
      else
        altered[k], any_altered = 'none', true
      end
    end
  end
  if left > 0 then
    end_attempts(destination, token, mark, left, done)
    if has_answered then report_of(destination).answered = true end
  end
  if done > 0 then
    if got_through then report_of(destination).delivered = true end
    count(destination, tally, done)
  end
  return k, extra
end

do
  local k, extra = 0, EXTRA_AT
  for i = GROUP_AT, ID_AT - 1, GROUP_WIDTH do
    if ARGV[i] ~= token then
      if token then write_marks(token, held) end
      token = ARGV[i]
      held = read_marks(token)
    end
    k, extra = settle_group(k, extra, unpack(ARGV, i + 1, i + GROUP_WIDTH - 1))
  end
  assert(k == N, 'settle takes an id per number')
  write_marks(token, held)
end

-- Adds the events as they came, except those of jobs that were not settled or that start again.
local function add_events_one_by_one()
  local next_event, from = string.gmatch(LENGTHS, '(%d+) (%d+)'), 2
  for k = 1, N do
    if not retiring[k] then
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

if any_altered then add_events_one_by_one() else write_events(EVENTS) end
for _, write in ipairs(retired_events) do write() end
call_many('HDEL', LAPSES, settled)
call_many('HDEL', JOBS, deleted)
call_many('HSET', JOBS, written)
call_many('HDEL', STANDING, cleared)
call_many('HSET', delivered_key(0), delivered)
write_pace()
local woke = 0
for _, at in pairs(wake_at) do
  if at <= NOW then woke = 1 end
end
write_due()
write_journal()
local answer = string.rep('1', N)
if any_letters then answer = string.gsub(answer, '()1', function(k) return letters[k] end) end
redis.call('SET', answer_key, answer, 'PX', KEEP)
return { NOW, answer, woke, journaled, to_log }
