-- When a destination's first job is due. Part of the scripts that visit destinations or look after
-- their visits.

-- Returns when the first job of a destination is due, nil if no job waits. At a shared destination
-- it is a negative number if an account waits for its turn.
local function first_due(destination, is_shared)
  local function first_score(key)
    return tonumber(call_on_set(destination, 'ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  end
  local first = first_score(due_key(destination))
  local other = is_shared and first_score(accounts_key(destination))
  return first and other and math.min(first, other) or first or other
end
