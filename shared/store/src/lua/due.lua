-- Due sets: which jobs wait at a destination, and when each of them is due. Part of the scripts
-- that need them.
--
-- due:<destination>, a zset: job id → due in ms. All its jobs are of one account, which is called
-- the first account here. Most destinations have jobs of one account only, and no other key.
--
-- If jobs of other accounts wait there too, the destination is shared, and the accounts take turns
-- (claim.lua). Then there is also:
--   due_of:<account>/<destination>, a zset: the same as `due`, for one of the other accounts
--   accounts:<destination>, a zset: each of the other accounts → when its first job is due, in
--     ms, or earlier. Once a claim has found it due, it has its turn instead: a negative number.
--   turn, a field of pace:<destination>: the turn of the first account
-- A turn shows when the account was last given something. The account with the lowest is next.
--
-- If no job of the first account is left, another account takes its place. So a destination has
-- `due` as long as jobs wait there.

-- All turns are less than this. It is subtracted from those in `accounts`, so that they come before
-- all due times.
local TURNS_END = 1e15

local function due_key(destination) return PREFIX .. 'due:' .. destination end

local function due_of_key(destination, account)
  return PREFIX .. 'due_of:' .. account .. '/' .. destination
end

local function accounts_key(destination) return PREFIX .. 'accounts:' .. destination end

-- Returns the account of a job. No account has a slash in it.
local function account_of(id) return string.match(id, '^[^/]*') end

-- Deletes one of these keys because it holds a value of another type. Upkeep finds the jobs that
-- were due there. Returns what the key has then: nothing.
local function forget_set(destination, key)
  redis.call('DEL', key)
  note_repaired('due', 'destination', destination)
  return {}
end

-- Calls a command on one of these keys. A key that holds a value of another type is deleted first.
local function call_on_set(destination, command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  forget_set(destination, key)
  return redis.call(command, key, ...)
end

-- Returns when a job is due, as text, and false if it does not wait.
local function find_due(destination, id)
  return call_on_set(destination, 'ZSCORE', due_key(destination), id)
    or call_on_set(destination, 'ZSCORE', due_of_key(destination, account_of(id)), id)
end

-- Ends the turns at a destination if only the first account has jobs left. If the pace cannot be
-- read, the script that repairs it looks after the turn.
local function end_turns(destination)
  if redis.call('EXISTS', accounts_key(destination)) == 0 then
    redis.pcall('HDEL', pace_key(destination), 'turn')
  end
end

-- Puts another account in the place of the first account, which has no jobs left.
local function replace_first(destination)
  local accounts = accounts_key(destination)
  while true do
    local account, turn =
      unpack(call_on_set(destination, 'ZRANGE', accounts, 0, 0, 'WITHSCORES'))
    if not account then break end
    redis.call('ZREM', accounts, account)
    local moved = redis.pcall('RENAME', due_of_key(destination, account), due_key(destination))
    if not moved.err then
      -- If the account was not waiting for its turn, it has had none.
      local number = tonumber(turn)
      number = number < 0 and number + TURNS_END or 0
      redis.pcall('HSET', pace_key(destination), 'turn', text(number))
      break
    end
  end
  end_turns(destination)
end

-- Removes a job from its due set. Returns whether it was there.
local function remove_due(destination, id)
  local key = due_key(destination)
  if call_on_set(destination, 'ZREM', key, id) == 1 then
    if redis.call('EXISTS', key) == 0 then replace_first(destination) end
    return true
  end
  local account = account_of(id)
  key = due_of_key(destination, account)
  if call_on_set(destination, 'ZREM', key, id) == 0 then return false end
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', accounts_key(destination), account)
    end_turns(destination)
  end
  return true
end

-- Due times are collected while a script runs and written once per destination and account. The
-- agenda is written once per call.
local wake_at = {}
local due_entries, put_due, write_due

local function wake(destination, at)
  if not wake_at[destination] or at < wake_at[destination] then wake_at[destination] = at end
end

do
  -- What is to be written of one account at each destination, and that account. Other accounts of
  -- the same call are rare.
  local entries_at, account_at, others_at = {}, {}, {}

  -- Returns the list of what is to be written to the due set of an account: due time and id,
  -- alternating. A caller that adds to the list must also call `wake`.
  function due_entries(destination, account)
    if not entries_at[destination] then
      entries_at[destination], account_at[destination] = {}, account
    end
    if account_at[destination] == account then return entries_at[destination] end
    local others = others_at[destination] or {}
    others_at[destination] = others
    others[account] = others[account] or {}
    return others[account]
  end

  function put_due(destination, id, due)
    local entries = due_entries(destination, account_of(id))
    entries[#entries + 1] = text(due)
    entries[#entries + 1] = id
    wake(destination, due)
  end

  -- Writes due times of an account that is not the first.
  local function write_due_of(destination, account, entries)
    call_on_set(destination, 'ZADD', due_of_key(destination, account), unpack(entries))
    local earliest = tonumber(entries[1])
    for i = 3, #entries, 2 do earliest = math.min(earliest, tonumber(entries[i])) end
    -- LT: a turn is lower than any due time, and stays.
    local accounts = accounts_key(destination)
    local added = call_on_set(destination, 'ZADD', accounts, 'LT', text(earliest), account)
    if added == 1 then redis.pcall('HSETNX', pace_key(destination), 'turn', '0') end
  end

  function write_due()
    for destination, entries in pairs(entries_at) do
      local key, account = due_key(destination), account_at[destination]
      local waiting = redis.pcall('ZRANGE', key, 0, 0)
      if waiting.err then waiting = forget_set(destination, key) end
      local first = waiting[1] and account_of(waiting[1]) or account
      if account == first then
        redis.call('ZADD', key, unpack(entries))
      else
        write_due_of(destination, account, entries)
      end
      for other, its_entries in pairs(others_at[destination] or {}) do
        if other == first then
          redis.call('ZADD', key, unpack(its_entries))
        else
          write_due_of(destination, other, its_entries)
        end
      end
    end
    local wakes = {}
    for destination, at in pairs(wake_at) do
      wakes[#wakes + 1] = text(at)
      wakes[#wakes + 1] = destination
    end
    -- LT: a destination that is worth visiting earlier for another reason keeps its earlier time.
    if #wakes > 0 then redis.call('ZADD', AGENDA, 'LT', unpack(wakes)) end
    entries_at, account_at, others_at, wake_at = {}, {}, {}, {}
  end
end
