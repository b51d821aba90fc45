-- Tallies: how many attempts at a destination had the same result, by day.

local TALLY_KEEP_S = 100 * 86400
local TALLY_DAY = text(math.floor(NOW / 86400000))

-- Counts attempts. All tallies of a day expire together.
local function count(destination, tally, number)
  local key = PREFIX .. 'tally:' .. TALLY_DAY .. ':' .. destination
  if count_up(key, tally, number) == number then redis.call('EXPIRE', key, TALLY_KEEP_S, 'NX') end
end
