-- Leases: which jobs a claim took, and which of them are in it still. Part of the scripts that deal with leased jobs.
--
-- leased, a hash: token → a mark per job in the order of the claim, 1 where it is in the lease, 0 where it is not any more;
-- then the jobs' ids, each behind a line end. An address has no control character, so no id has a line end.

local HELD, GONE = 49, 48

local function put_lease(token, ids, deadline)
  redis.call('HSET', LEASED, token, string.rep('1', #ids) .. '\n' .. table.concat(ids, '\n'))
  redis.call('ZADD', LEASES, text(deadline), token)
end

-- The marks of a lease as bytes, by the job's number in it, and its ids as they stand there. Empty where the lease is over.
local function read_lease(token)
  local lease = redis.call('HGET', LEASED, token)
  if not lease then return {}, '' end
  local size = string.find(lease, '\n', 1, true) - 1
  return { string.byte(lease, 1, size) }, string.sub(lease, size + 1)
end

-- Writes a lease back after marks were changed. One with no job in it is over.
local function write_lease(token, marks, ids)
  for _, mark in ipairs(marks) do
    if mark == HELD then
      redis.call('HSET', LEASED, token, string.char(unpack(marks)) .. ids)
      return
    end
  end
  redis.call('HDEL', LEASED, token)
  redis.call('ZREM', LEASES, token)
end

-- The ids of the jobs that are in a lease, and their numbers in it.
local function held_jobs(marks, ids)
  local held, numbers, number = {}, {}, 0
  for id in string.gmatch(ids, '\n([^\n]+)') do
    number = number + 1
    if marks[number] == HELD then
      held[#held + 1] = id
      numbers[#numbers + 1] = number
    end
  end
  return held, numbers
end
