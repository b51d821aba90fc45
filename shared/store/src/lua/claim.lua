-- Leases due jobs of one shard. It visits the destinations whose time has come and takes from each
-- what its pace allows, but no more than a bounded share. Then it writes when each destination is
-- next worth visiting.
--
-- Takes:
--   batch (number)          how many jobs at most
--   share (number)          how many of one destination at most, per visit
--   lease_ms (number)       the length of the lease
--   nonce                   a number that no other claim has, as 16 hexadecimal digits
--   seen (number)           the highest serial of the shard that the claimer has seen
--   unproven_left (number)  how many jobs of unproven destinations at most (pace.lua)
-- Reply: now; the lease's token ('' if no job was due); when the shard is next worth visiting (-1:
-- never); the serial of the lease before; how many unproven destinations wait for room; how many
-- jobs have lapsed; the changes that the caller logs (prelude.lua); then per destination: its name,
-- when a message was last delivered there ('' if unknown), '1' if it is unproven, else '', and per
-- job id, due and record. The jobs are in the order of their due times. An empty due time means: at
-- or after that of the job before, and not after now.
-- Full memory: refused as a whole, before anything lapses: what is claimed may be sent, and must be
-- settled then.
-- Cost: 10 operations and 4 per destination visited, 6 if it gives many jobs. Atomic.

-- A larger answer could take longer than the claimer waits for it. The first job is always
-- included.
local BYTES_MAX = 8 * 1024 * 1024

lapse(batch)
write_pace()
write_due()

-- How many destinations of the agenda are looked at, at least. Some of them may get nothing.
local LOOKED_AT = 64

-- For how many jobs of a visit the due time is read. The server prints each of them slowly.
local DUES_READ = 16

local fallback = NOW + lease_ms
-- If this is less than the claimer has seen, Redis has lost writes.
local last_serial = not_negative(redis.call('GET', SERIAL) or 0) or 0
local token
-- Returns the token of this claim's lease. The serial is greater than all before it, and not less
-- than the clock. So if Redis has lost its last writes, new leases still come after those that it
-- has lost. If the clock was set back as well, the claimer's memory keeps the order.
local function take_token()
  if not token then
    local serial = text(math.max(last_serial + 1, seen + 1, NOW))
    redis.call('SET', SERIAL, serial)
    token = serial .. '-' .. nonce
  end
  return token
end

local left = batch
-- How many unproven destinations wait for room. They share it: each gets an equal part, and at
-- least one attempt, so that every destination has its turn soon.
local unproven_count = redis.call('ZCARD', UNPROVEN)
local unproven_part = math.max(1, math.floor(unproven_left / math.max(1, unproven_count)))
local visited = {}
local all_ids = {}
local next_visits, finished, queued = {}, {}, {}
-- What was taken at which destination, by visit.
local replies, dues_at, taken_at, pace_at, changes_at = {}, {}, {}, {}, {}

local function visit_again(destination, at)
  next_visits[#next_visits + 1] = text(at)
  next_visits[#next_visits + 1] = destination
end

-- Puts a destination into the queue of unproven ones, because this worker has no room for more
-- attempts there. The first worker with room visits it. An attempt there that is answered earlier
-- wakes it.
local function queue(destination, pace, changes)
  queued[#queued + 1] = NOW_TEXT
  queued[#queued + 1] = destination
  if (pace.in_flight or 0) > 0 then set(changes, 'parked', '1') end
  visit_again(destination, fallback)
end

-- Returns the first jobs of a due set that are due, at most `most`; their due times, for as many as
-- were read; and the due time of the job after them. Nil if the key holds no such set.
local function due_jobs(key, most)
  local first = math.min(most, DUES_READ)
  local waiting = redis.pcall('ZRANGE', key, 0, first, 'WITHSCORES')
  if waiting.err then return nil end
  local ids, dues = {}, {}
  for n = 1, first do
    local id, due = waiting[2 * n - 1], waiting[2 * n]
    if not id or tonumber(due) > NOW then return ids, dues, id and tonumber(due) end
    ids[n], dues[n] = id, due
  end
  if first == most then return ids, dues, tonumber(waiting[2 * most + 2]) end
  local more =
    redis.call('ZRANGE', key, '-inf', NOW_TEXT, 'BYSCORE', 'LIMIT', first, most - first)
  for n, id in ipairs(more) do ids[first + n] = id end
  local next_one = redis.call('ZRANGE', key, #ids, #ids, 'WITHSCORES')
  return ids, dues, tonumber(next_one[2])
end

-- Takes what is due at one destination, and notes when it is next worth visiting.
local function visit(destination)
  local changes = {}
  local pace = read_pace(destination)
  local allowed, next_visit, take = allowance(pace, changes, take_token, fallback)
  if allowed == 0 then
    call_many('HSET', pace_key(destination), changes)
    return visit_again(destination, next_visit)
  end
  local key = due_key(destination)
  local is_unproven = not is_proven(pace)
  local others_wait = unproven_count > (visited[destination] and 1 or 0)
  local most = math.min(share, left, allowed)
  if is_unproven then
    most = math.min(most, unproven_left, others_wait and unproven_part or most)
    if most == 0 then
      queue(destination, pace, changes)
      return call_many('HSET', pace_key(destination), changes)
    end
  end
  local ids, dues, next_due = due_jobs(key, most)
  if not ids then
    forget_due(destination)
    finished[#finished + 1] = destination
    return
  end
  local taken = #ids
  local limited = taken == allowed and next_due ~= nil and next_due <= NOW
  if taken > 0 then
    if next_due then
      redis.call('ZREMRANGEBYRANK', key, 0, taken - 1)
    else
      redis.call('UNLINK', key)
    end
    left = left - taken
    if is_unproven then unproven_left = unproven_left - taken end
    if take then
      take(taken, limited)
    elseif limited then
      set(changes, 'parked', '1')
    end
    local known = #all_ids
    for n = 1, taken do all_ids[known + n] = ids[n] end
    local v = #replies + 1
    local delivered = pace.delivered and text(pace.delivered) or ''
    replies[v] = { destination, delivered, is_unproven and '1' or '' }
    dues_at[v], taken_at[v], pace_at[v], changes_at[v] = dues, taken, pace, changes
  end
  if not next_due then
    finished[#finished + 1] = destination
  elseif limited then
    visit_again(destination, math.max(next_visit, NOW))
  elseif is_unproven and others_wait and next_due <= NOW then
    -- An answer to one of the attempts that it was given brings the next visit.
    set(changes, 'parked', '1')
    visit_again(destination, fallback)
  elseif is_unproven and unproven_left == 0 and next_due <= NOW then
    queue(destination, pace, changes)
  else
    -- A destination with work left goes behind all that wait already.
    visit_again(destination, math.max(next_due, NOW))
  end
end

-- The destinations that have waited for room come first, because nothing else brings them a visit.
local waited = {}
if unproven_count > 0 and unproven_left > 0 then
  local last = math.min(batch, unproven_left) - 1
  for _, destination in ipairs(redis.call('ZRANGE', UNPROVEN, 0, last)) do
    if left == 0 or unproven_left == 0 then break end
    visited[destination] = true
    waited[#waited + 1] = destination
    visit(destination)
  end
end
local looked_at = math.max(batch, LOOKED_AT)
local worth_visiting =
  redis.call('ZRANGE', AGENDA, '-inf', NOW_TEXT, 'BYSCORE', 'LIMIT', 0, looked_at)
for _, destination in ipairs(worth_visiting) do
  if left == 0 then break end
  if not visited[destination] then visit(destination) end
end
call_many('ZREM', UNPROVEN, waited)
-- NX: a destination that waits already keeps its place.
if #queued > 0 then redis.call('ZADD', UNPROVEN, 'NX', unpack(queued)) end
call_many('ZADD', AGENDA, next_visits)
call_many('ZREM', AGENDA, finished)

local unproven_waiting = 0
if unproven_count > 0 or #queued > 0 then unproven_waiting = redis.call('ZCARD', UNPROVEN) end
local reply = { NOW, '', -1, last_serial, unproven_waiting, lapsed_jobs, to_log }
if #all_ids > 0 then
  local records = redis.call('HMGET', JOBS, unpack(all_ids))
  local leased, bytes, k = {}, 0, 0
  for v, answer in ipairs(replies) do
    local dues = dues_at[v]
    local before, size = #leased, 3
    for n = 1, taken_at[v] do
      k = k + 1
      local record = records[k]
      -- An id without a record is no job, and is forgotten.
      if record and (#leased == 0 or bytes + #record <= BYTES_MAX) then
        bytes = bytes + #record
        answer[size + 1], answer[size + 2], answer[size + 3] = all_ids[k], dues[n] or '', record
        size = size + 3
        leased[#leased + 1] = all_ids[k]
      elseif record then
        put_due(answer[1], all_ids[k], tonumber(dues[n] or dues[#dues]))
      end
    end
    -- If nothing was leased, no token was used, no job was taken, and no probe is under way.
    if #leased > before then
      local in_flight = text((pace_at[v].in_flight or 0) + #leased - before)
      redis.call('HSET', pace_key(answer[1]), 'in_flight', in_flight, unpack(changes_at[v]))
      -- A destination whose breaker is not closed gets an attempt only as a probe.
      if pace_at[v].breaker then note_change('probed', answer[1], '') end
      reply[#reply + 1] = answer
    end
  end
  if #leased > 0 then
    reply[2] = take_token()
    put_lease(token, leased, lease_ms)
  end
  write_due()
end
write_journal()

local first = redis.call('ZRANGE', AGENDA, 0, 0, 'WITHSCORES')
if first[2] then reply[3] = tonumber(first[2]) end
return reply
