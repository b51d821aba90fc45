-- Leases: which jobs a claim took, and which of them are still in its lease. Part of the scripts
-- that process leased jobs.
--
-- leased, a hash with two fields per lease:
--   <token>      a mark per job in the order of the claim: 1 if it is still in the lease, else 0
--   <token> ids  the length of the lease in ms, and the jobs' ids, each after a line end. An
--                address has no control character, so no id has a line end.
-- They are separate because every settle changes marks, and Lua reads each byte of a text that it
-- is given or makes.

local HELD, GONE = 49, 48

local function ids_field(token) return token .. ' ids' end

local function put_lease(token, ids, length_ms)
  ids[0] = text(length_ms)
  local ids_text = table.concat(ids, '\n', 0)
  redis.call('HSET', LEASED, token, string.rep('1', #ids), ids_field(token), ids_text)
  redis.call('ZADD', LEASES, text(NOW + length_ms), token)
end

-- Returns the length of a lease in ms, from its text of ids.
local function length_of(ids) return tonumber(string.match(ids, '^%d+')) end

-- How many marks are read. No lease has more.
local MARKS_MAX = 1000

-- Returns the marks of a lease as bytes, by the job's number in it. Empty if the lease is over.
local function read_marks(token)
  return { string.byte(redis.call('HGET', LEASED, token) or '', 1, MARKS_MAX) }
end

-- Writes a lease back after its marks were changed. A lease with no job in it is over, and is
-- deleted.
local function write_marks(token, marks)
  for _, mark in ipairs(marks) do
    if mark == HELD then
      redis.call('HSET', LEASED, token, string.char(unpack(marks)))
      return
    end
  end
  redis.call('HDEL', LEASED, token, ids_field(token))
  redis.call('ZREM', LEASES, token)
end

-- Returns the ids of the jobs that are in a lease according to these marks, and their numbers in
-- it.
local function held_by(marks, token)
  local held, numbers, number = {}, {}, 0
  for id in string.gmatch(redis.call('HGET', LEASED, ids_field(token)) or '', '\n([^\n]+)') do
    number = number + 1
    if marks[number] == HELD then
      held[#held + 1] = id
      numbers[#numbers + 1] = number
    end
  end
  return held, numbers
end

-- Returns the ids of the jobs that are in a lease.
local function held_jobs(token)
  local held = held_by(read_marks(token), token)
  return held
end
