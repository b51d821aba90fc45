-- Leases: which jobs a claim took, and which of them are in it still. Part of the scripts that deal
-- with leased jobs.
--
-- leased, a hash with two fields per lease:
--   <token>      a mark per job in the order of the claim, 1 where it is in the lease, 0 where it is not any more
--   <token> ids  the length of the lease in ms, and the jobs' ids, each behind a line end. An address has no control
--                character, so no id has a line end.
-- They are apart because every settle changes marks, and Lua goes through each byte of a text that
-- it is given or makes.

local HELD, GONE = 49, 48

local function ids_field(token) return token .. ' ids' end

local function put_lease(token, ids, length_ms)
  ids[0] = text(length_ms)
  redis.call('HSET', LEASED, token, string.rep('1', #ids), ids_field(token), table.concat(ids, '\n', 0))
  redis.call('ZADD', LEASES, text(NOW + length_ms), token)
end

-- How long a lease is, in ms, by its text of ids.
local function length_of(ids) return tonumber(string.match(ids, '^%d+')) end

-- How many marks are read. No lease has more.
local MARKS_MAX = 1000

-- The marks of a lease as bytes, by the job's number in it. Empty where the lease is over.
local function read_marks(token)
  return { string.byte(redis.call('HGET', LEASED, token) or '', 1, MARKS_MAX) }
end

-- Writes a lease back after marks were changed. One with no job in it is over.
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

-- The ids of the jobs that are in a lease by these marks, and their numbers in it.
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

-- The ids of the jobs that are in a lease.
local function held_jobs(token)
  local held = held_by(read_marks(token), token)
  return held
end
