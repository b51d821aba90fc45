-- Reads a destination's pace. What cannot be read costs its destination alone: the field gets its
-- first value again, and the journal says so. Part of the scripts that deal with pace.

-- A number that is not less than `least`, or nil. Written so that what is not a number at all fails
-- too.
local function number_from(value, least)
  local number = tonumber(value)
  if number and number >= least and number < 1e15 then return number end
end

local function not_negative(value) return number_from(value, 0) end

local function read_limits(value)
  local rate, burst, window = string.match(value, '^(%S+) (%S+) (%S+)$')
  rate, burst, window = not_negative(rate), not_negative(burst), not_negative(window)
  return rate and burst and window and { rate, burst, window }
end

local function read_tokens(value)
  local saved, at = string.match(value, '^(%S+) (%S+)$')
  saved, at = number_from(saved, -1), not_negative(at)
  return saved and at and { saved, at }
end

-- State; for 'open' until when, for 'half_open' the probe's token; how often in a row it has
-- opened.
local function read_breaker(value)
  local state, at, times = string.match(value, '^(%S+) (%S+) (%S+)$')
  times = not_negative(times)
  if state == 'open' then at = not_negative(at) elseif state ~= 'half_open' then return nil end
  return at and times and { state, at, times }
end

local function read_results(value)
  local results = { string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$') }
  if #results == 0 then return nil end
  for k, number in ipairs(results) do results[k] = tonumber(number) end
  return results
end

-- The fields, and how each is read.
local PACE_FIELDS = {
  'in_flight', 'window', 'breaker', 'limits', 'override', 'answered', 'silent', 'parked', 'tokens', 'delivered', 'hold',
  'results', 'narrowed',
}
local READ_FIELD = {
  not_negative, not_negative, read_breaker, read_limits, read_limits, not_negative, not_negative,
  function(value) return value == '1' end,
  read_tokens, not_negative,
  function(value) return number_from(value, -1) end,
  read_results, not_negative,
}

local function reset_field(destination, field, pace)
  if field == 'hold' then
    -- How long the operator meant it is not known, so it lasts until an operator releases it.
    pace.hold = -1
    redis.call('HSET', pace_key(destination), 'hold', '-1')
  else
    redis.call('HDEL', pace_key(destination), field)
  end
  note_repaired('pace ' .. field, 'destination', destination)
end

-- The pace of a destination: by field what was read of it, nil if it has its first value.
local function read_pace(destination)
  local pace = {}
  local values = redis.pcall('HMGET', pace_key(destination), unpack(PACE_FIELDS))
  if values.err then
    redis.call('DEL', pace_key(destination))
    note_repaired('pace', 'destination', destination)
    return pace
  end
  for k, value in ipairs(values) do
    if value and value ~= '' then
      local read = READ_FIELD[k](value)
      if read == nil then
        reset_field(destination, PACE_FIELDS[k], pace)
      else
        pace[PACE_FIELDS[k]] = read
      end
    end
  end
  return pace
end
