-- Leases due jobs of one shard. It visits the destinations whose time has come and takes from each
-- what its pace allows, but no more than a bounded share. If jobs of several accounts are due
-- there, the accounts take turns. Then it writes when each destination is next worth visiting.
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
-- job id, due and record. The jobs of an account are in the order of their due times. An empty due
-- time means: at or after that of the job before, and not after now.
-- Full memory: refused as a whole, before anything lapses: what is claimed may be sent, and must be
-- settled then.
-- Cost: 10 operations and 4 per destination visited, 6 if it gives many jobs. At a destination with
-- jobs of several accounts 8 more, and 2 per account that gets something. Atomic.

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
-- The serial is greater than all before it, and not less than the clock. So if Redis has lost its
-- last writes, new leases still come after those that it has lost. If the clock was set back as
-- well, the claimer's memory keeps the order.
local serial = math.max(last_serial + 1, seen + 1, NOW)
local token
-- Returns the token of this claim's lease.
local function take_token()
  if not token then
    redis.call('SET', SERIAL, text(serial))
    token = text(serial) .. '-' .. nonce
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

-- Takes the first jobs of a due set that are due, at most `most`. Adds their ids to `ids`, and the
-- due times of as many as were read to `dues`, at the same places. The first one's is always read.
-- Returns when the first of the others is due, nil if there are no others.
local function take_due(destination, key, most, ids, dues)
  local known, first = #ids, math.min(most, DUES_READ)
  local waiting = redis.pcall('ZRANGE', key, 0, first, 'WITHSCORES')
  if waiting.err then waiting = forget_set(destination, key) end
  local taken, next_due = 0, tonumber(waiting[2])
  while taken < first and next_due and next_due <= NOW do
    taken = taken + 1
    ids[known + taken], dues[known + taken] = waiting[2 * taken - 1], waiting[2 * taken]
    next_due = tonumber(waiting[2 * taken + 2])
  end
  if taken == first and first < most and next_due and next_due <= NOW then
    local more =
      redis.call('ZRANGE', key, '-inf', NOW_TEXT, 'BYSCORE', 'LIMIT', first, most - first)
    for n, id in ipairs(more) do ids[known + first + n] = id end
    taken = taken + #more
    next_due = tonumber(redis.call('ZRANGE', key, taken, taken, 'WITHSCORES')[2])
  end
  if taken > 0 then
    if next_due then
      redis.call('ZREMRANGEBYRANK', key, 0, taken - 1)
    else
      redis.call('UNLINK', key)
    end
  end
  return next_due
end

local take_in_turn
do
  -- How many accounts are looked at in a visit of a shared destination, at least. Some of them may
  -- get nothing.
  local ACCOUNTS_LOOKED_AT = 16

  -- How many turns a claim gives at a destination. Accounts beyond that share the last one.
  local TURNS_PER_CLAIM = 256

  -- Returns a turn for what is given under the lease with this serial.
  local function turn_of(of_serial, number)
    number = math.min(number, TURNS_PER_CLAIM - 1)
    return math.min(of_serial * TURNS_PER_CLAIM + number, TURNS_END - 1)
  end

  -- Returns the accounts of a shared destination that may have due jobs, those first whose turn
  -- comes first. An account whose first job has become due waits behind those that wait already.
  local function accounts_in_turn(destination, first_turn, most)
    local accounts = accounts_key(destination)
    local became_due = call_on_set(
      destination, 'ZRANGE', accounts, '0', NOW_TEXT, 'BYSCORE', 'LIMIT', 0, LOOKED_AT
    )
    local last_turn = text(turn_of(last_serial, TURNS_PER_CLAIM) - TURNS_END)
    local turns = {}
    for _, account in ipairs(became_due) do
      turns[#turns + 1] = last_turn
      turns[#turns + 1] = account
    end
    call_many('ZADD', accounts, turns)
    local before_first = redis.call('ZCOUNT', accounts, '-inf', text(first_turn - TURNS_END))
    local waiting = redis.call(
      'ZRANGE', accounts, '-inf', '(0', 'BYSCORE', 'LIMIT', 0, math.max(most, ACCOUNTS_LOOKED_AT)
    )
    local in_turn = {}
    for n, account in ipairs(waiting) do
      in_turn[n] = { account = account, key = due_of_key(destination, account) }
    end
    local place = math.min(before_first, #waiting) + 1
    table.insert(in_turn, place, { key = due_key(destination) })
    return in_turn
  end

  -- Writes the next turns of accounts that were looked at, or when their first job is due.
  local function write_turns(destination, looked_at)
    local accounts = accounts_key(destination)
    local scores, gone, first_is_gone = {}, {}, false
    for _, one in ipairs(looked_at) do
      local is_due = one.next_due and one.next_due <= NOW
      if not one.account then
        first_is_gone = not one.next_due
        if one.turn then redis.call('HSET', pace_key(destination), 'turn', text(one.turn)) end
      elseif not one.next_due then
        gone[#gone + 1] = one.account
      elseif one.turn or not is_due then
        scores[#scores + 1] = text(is_due and one.turn - TURNS_END or one.next_due)
        scores[#scores + 1] = one.account
      end
    end
    call_many('ZADD', accounts, scores)
    call_many('ZREM', accounts, gone)
    if first_is_gone then
      replace_first(destination)
    elseif #gone == #looked_at - 1 then
      end_turns(destination)
    end
  end

  -- Takes due jobs of a shared destination, at most `most`, like `take_due`. All accounts with due
  -- jobs get the same number of attempts, as far as they have as many. If there are fewer attempts
  -- than accounts, the accounts get one each in turn. Returns when the next job is due, a negative
  -- number if an account waits for its turn.
  function take_in_turn(destination, first_turn, most, ids, dues)
    local in_turn = accounts_in_turn(destination, first_turn, most)
    local looked_at, given = {}, 0
    for n, one in ipairs(in_turn) do looked_at[n] = one end
    while most > 0 and #in_turn > 0 do
      local part = math.max(1, math.floor(most / #in_turn))
      local with_more = {}
      for _, one in ipairs(in_turn) do
        if most == 0 then
          one.next_due = one.next_due or NOW
        else
          local before = #ids
          one.next_due = take_due(destination, one.key, math.min(part, most), ids, dues)
          most = most - (#ids - before)
          if #ids > before then
            one.turn = turn_of(serial, given)
            given = given + 1
          end
          if one.next_due and one.next_due <= NOW then with_more[#with_more + 1] = one end
        end
      end
      in_turn = with_more
    end
    write_turns(destination, looked_at)
    return first_due(destination, true)
  end
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
  local ids, dues, next_due = {}, {}, nil
  if pace.turn then
    next_due = take_in_turn(destination, pace.turn, most, ids, dues)
  else
    next_due = take_due(destination, due_key(destination), most, ids, dues)
  end
  local taken = #ids
  local limited = taken == allowed and next_due ~= nil and next_due <= NOW
  if taken > 0 then
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
    local dues, last_due = dues_at[v], nil
    local before, size = #leased, 3
    for n = 1, taken_at[v] do
      k = k + 1
      local record = records[k]
      last_due = dues[n] or last_due
      -- An id without a record is no job, and is forgotten.
      if record and (#leased == 0 or bytes + #record <= BYTES_MAX) then
        bytes = bytes + #record
        answer[size + 1], answer[size + 2], answer[size + 3] = all_ids[k], dues[n] or '', record
        size = size + 3
        leased[#leased + 1] = all_ids[k]
      elseif record then
        put_due(answer[1], all_ids[k], tonumber(last_due))
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
