-- Reads a destination's pace. A value that cannot be read affects only its destination: the field
-- gets its initial value again, and the journal records it. Part of the scripts that need the pace.

local not_negative, read_pace
do
  -- Returns a number that is at least `least`, else nil. The comparison is written so that NaN
  -- fails it too.
  local function number_from(value, least)
    local number = tonumber(value)
    if number and number >= least and number < 1e15 then return number end
  end

  function not_negative(value) return number_from(value, 0) end

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

  -- Returns a list of three values: 'open' or 'half_open'; until when it is open, or the token of
  -- the probe that it waits for; how many times in a row it has opened.
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

  -- The fields of the hash. READ_FIELD has the function that reads each, in the same order.
  local PACE_FIELDS = {
    'in_flight', 'window', 'breaker', 'limits', 'override', 'answered', 'silent', 'parked',
    'tokens', 'delivered', 'hold',
    'results', 'narrowed', 'turn',
  }
  local READ_FIELD = {
    not_negative, not_negative, read_breaker, read_limits, read_limits, not_negative, not_negative,
    function(value) return value == '1' end,
    read_tokens, not_negative,
    function(value) return number_from(value, -1) end,
    read_results, not_negative, not_negative,
  }

  local function reset_field(destination, field, pace)
    if field == 'hold' then
      -- How long the operator meant to hold it is unknown, so it lasts until an operator releases
      -- it.
      pace.hold = -1
      redis.call('HSET', pace_key(destination), 'hold', '-1')
    elseif field == 'turn' then
      pace.turn = 0
      redis.call('HSET', pace_key(destination), 'turn', '0')
    else
      redis.call('HDEL', pace_key(destination), field)
    end
    note_repaired('pace ' .. field, 'destination', destination)
  end

  -- Returns the pace of a destination: the value of each field, by name. A field that is absent or
  -- empty is nil.
  function read_pace(destination)
    local pace = {}
    local values = redis.pcall('HMGET', pace_key(destination), unpack(PACE_FIELDS))
    if values.err then
      redis.call('DEL', pace_key(destination))
      note_repaired('pace', 'destination', destination)
      if redis.call('EXISTS', accounts_key(destination)) == 1 then
        pace.turn = 0
        redis.call('HSET', pace_key(destination), 'turn', '0')
      end
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
end
