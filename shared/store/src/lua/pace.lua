-- Pace: how many attempts a destination gets at once and per second, for the whole fleet. Also the
-- breaker, which keeps attempts from a destination while it is down. Part of the scripts that
-- scripts.rs lists with it.
--
-- Settings, of a destination that has no limits of its own:
--   RATE (number)         tokens per second; 0: no limit
--   BURST (number)        how many tokens may be saved up
--   WINDOW (number)       until the first failure, each attempt that the mail system handles widens
--                         the window by one, up to this many attempts at once
--   WINDOW_MAX (number)   attempts at once, at most
--   FAILURES (number)     how many failures of the host in a row open the breaker
--   SHARE (number)        the share of the attempts within PERIOD_MS that must fail to open the
--                         breaker
--   SAMPLES (number)      how many attempts there must be before that share counts
--   PERIOD_MS (number)    the length of the sliding window for that share
--   OPEN_MS (number)      how long the breaker is open the first time; doubled for each further
--                         time in a row
--   OPEN_MAX_MS (number)  how long the breaker is open at most
--   WINDOW_MIN (number)   attempts at once that always remain, however many fail
--   WINDOW_NEW (number)   attempts at once, at most, at a destination that has not answered lately;
--                         its window starts at this size
--   ANSWERED_WITHIN_MS (number)  how long an answer counts as "lately"
--
-- pace:<destination>, a hash that pace_fields.lua reads. A field that is absent or '' has its
-- initial value.
--   in_flight  attempts under way
--   window     how many attempts there may be; it grows and shrinks with their results
--   narrowed   the shard's serial when failures last narrowed the window; a failure under a lease
--              up to this serial does not narrow it again
--   tokens     'tokens refilled-at'
--   parked     1 if the window was full: a script that makes room wakes the destination
--   breaker    'open until times' or 'half_open probe times'; absent or '': closed
--   results    'failures-in-a-row period good bad good-before bad-before': `period` is the number
--              of a period; its results follow, and those of the period before it; absent or '':
--              no results yet
--   delivered  when a message was last delivered there
--   answered   when a host there last answered an attempt, with any reply
--   silent     until when it counts as silent, in ms: an attempt there waits for an answer, and no
--              other attempt got one meanwhile
--   limits     'rate burst window', from the configuration
--   override   'rate burst window', from an operator; it takes precedence over `limits`
--   hold       until when an operator holds it, in ms; -1: until it is released
--   hold_reason  the operator's reason for the hold
--   turn       the turn of the first account, while jobs of several accounts wait there (due.lua)
--
-- trouble, a zset: destination → since when an operator holds it or its breaker is not closed, in
-- ms. A destination whose hold has run out stays in it until upkeep removes it. Only the list of
-- destinations reads this set.
--
-- unproven, a zset: destination → since when it waits for room, in ms. A destination is proven if
-- it has answered lately and is not silent. A worker makes only a share of its attempts at unproven
-- destinations. Those in this set have due jobs, but the worker that visited them had used up that
-- share.

local TROUBLE = PREFIX .. 'trouble'
local UNPROVEN = PREFIX .. 'unproven'

-- How long a destination stays silent without another report. The workers that wait there may be
-- gone.
local SILENT_MS = 5000

-- A failure narrows the window to this share. Other failures that were under way at the same time
-- do not narrow it again.
local NARROWED_TO = 0.7

-- Rounding tolerance for tokens. Half of it covers the rounding to the six decimals that are
-- stored. The other half covers the errors of float arithmetic.
local ROUNDING = 1e-6

local function event_of_destination(kind, destination, fields)
  add_event(
    '{"type":"' .. kind .. '","destination":' .. cjson.encode(destination) .. fields .. '}'
  )
end

-- Returns the rate, the burst and the largest window that apply to a destination.
local function limits_of(pace)
  local limits = pace.override or pace.limits
  if not limits then return RATE, BURST, WINDOW_MAX end
  return unpack(limits)
end

local function set(changes, field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end

-- If the stored instant is more than SILENT_MS ahead, the clock was set back after it was stored.
-- It is ignored then.
local function is_silent(pace)
  local silent = pace.silent or 0
  return silent > NOW and silent <= NOW + SILENT_MS
end

local function has_answered_lately(pace)
  return pace.answered ~= nil and NOW - past(pace.answered) < ANSWERED_WITHIN_MS
end

-- Whether no host there has answered within the last `waited_ms`.
local function is_mute_for(pace, waited_ms)
  return past(pace.answered or -math.huge) < NOW - waited_ms
end

local function is_proven(pace) return has_answered_lately(pace) and not is_silent(pace) end

-- Returns how many attempts may be under way at once. A silent destination gets one, to see whether
-- it is back.
local function window_of(pace, window_max)
  local most = math.min(pace.window or WINDOW_NEW, window_max)
  if is_silent(pace) then return math.min(most, 1) end
  if not has_answered_lately(pace) then return math.min(most, WINDOW_NEW) end
  return most
end

-- Returns how long a breaker stays open that has opened `times` times in a row before.
local function open_ms(times) return math.min(OPEN_MS * 2 ^ times, OPEN_MAX_MS) end

-- Decides what a destination may be given now. Returns three values:
-- - how many attempts it may be given;
-- - when to visit it next, if it takes all of them and has more due jobs;
-- - a function to call once it has taken some, with how many it took, and whether it takes all of
--   them and has more due jobs. Nil if it may take none, or if only the window limits it.
--
-- Changes of its pace are put into `changes`. `fallback` is when to visit it next if that depends
-- on the end of another attempt or on an operator. Either of them brings the visit forward.
local function allowance(pace, changes, take_token, fallback)
  local held_until = pace.hold
  if held_until == -1 then return 0, fallback end
  if held_until and held_until > NOW then return 0, held_until end
  if pace.breaker then
    local state, at, times = unpack(pace.breaker)
    -- If the probe's lease is gone, its result will never come. Another probe is made then.
    if state == 'half_open' and redis.call('ZSCORE', LEASES, at) then return 0, fallback end
    if state == 'open' and at > NOW then
      -- The breaker was opened before the clock was set back. It must not stay open for the length
      -- of that step.
      local latest = NOW + open_ms(times - 1)
      if at <= latest then return 0, at end
      set(changes, 'breaker', 'open ' .. text(latest) .. ' ' .. text(times))
      return 0, latest
    end
    return 1, fallback, function()
      set(changes, 'breaker', 'half_open ' .. take_token() .. ' ' .. text(times))
    end
  end
  local rate, burst, window_max = limits_of(pace)
  local room = math.floor(window_of(pace, window_max)) - (pace.in_flight or 0)
  if room <= 0 then
    set(changes, 'parked', '1')
    return 0, fallback
  end
  if rate == 0 then return room, fallback end
  local saved, refilled_at = burst, NOW
  if pace.tokens then
    saved, refilled_at = unpack(pace.tokens)
    -- The clock was set back: count tokens from now on.
    if refilled_at > NOW then
      set(changes, 'tokens', string.format('%.6f %s', saved, NOW_TEXT))
    end
    saved = math.min(burst, saved + math.max(0, NOW - refilled_at) * rate / 1000)
  end
  -- A balance within the rounding tolerance of a whole token counts as one.
  local whole = math.floor(saved + ROUNDING)
  -- Returns when the next token comes, rounded up to the millisecond, so that a visit at that time
  -- finds the token.
  local function next_token(left)
    return NOW + math.max(1, math.ceil((1 - ROUNDING / 2 - left) * 1000 / rate))
  end
  if whole < 1 then return 0, next_token(saved) end
  local function take(taken, limited)
    set(changes, 'tokens', string.format('%.6f %s', saved - taken, NOW_TEXT))
    if limited and whole >= room then set(changes, 'parked', '1') end
  end
  if whole < room then return whole, next_token(saved - whole), take end
  return room, fallback, take
end

-- Whether an operator's hold is in force.
local function is_held(pace)
  local hold = pace.hold or 0
  return hold == -1 or hold > NOW
end

local function note_trouble(destination)
  redis.call('ZADD', TROUBLE, 'NX', NOW_TEXT, destination)
end

local function open_breaker(destination, changes, times)
  note_trouble(destination)
  local at = NOW + open_ms(times)
  set(changes, 'breaker', 'open ' .. text(at) .. ' ' .. text(times + 1))
  set(changes, 'results', '')
  -- A visit that found the probe under way has put the next visit off until the end of the probe's
  -- lease. This brings it forward.
  wake(destination, at)
  event_of_destination('BreakerOpened', destination, ',"until":' .. text(at))
  note_change('opened', destination, '')
end

-- Counts results in a sliding window of PERIOD_MS: all of the current period, and a share of those
-- of the period before. The share is the part of that period that is still within the window.
-- Returns the new results, and whether they open the breaker.
local function count_results(results, good, bad)
  local in_a_row, period, now_good, now_bad, good_before, bad_before = 0, 0, 0, 0, 0, 0
  if results then
    in_a_row, period, now_good, now_bad, good_before, bad_before = unpack(results)
  end
  local current = math.floor(NOW / PERIOD_MS)
  if current - period == 1 then
    good_before, bad_before, now_good, now_bad = now_good, now_bad, 0, 0
  elseif current - period ~= 0 then
    good_before, bad_before, now_good, now_bad = 0, 0, 0, 0
  end
  now_good, now_bad = now_good + good, now_bad + bad
  in_a_row = good > 0 and 0 or in_a_row + bad
  local share_before = 1 - (NOW % PERIOD_MS) / PERIOD_MS
  local tried = now_good + now_bad + share_before * (good_before + bad_before)
  local failed = now_bad + share_before * bad_before
  local kept = string.format(
    '%d %d %d %d %d %d', in_a_row, current, now_good, now_bad, good_before, bad_before
  )
  return kept, in_a_row >= FAILURES or (tried >= SAMPLES and failed >= SHARE * tried)
end

-- What settle, release and lapse report about one destination:
--   pace     its pace before this call
--   ended    how many attempts are not under way any more
--   good     how many of them the mail system handled, with any result for the mailbox
--   bad      how many failed because of the host
--   bad_route  how many failed because of our route to it
--   newest   the highest serial among the failures
--   late     whether the failure is a bounce of an attempt that had ended well before
--   probe    the token that the breaker waits for, if it waits for one
--   result   the result of the probe: 'good', 'bad' or 'none'
--   delivered  whether a message was delivered
--   answered   whether a host answered
--   is_mute    whether an attempt was given up, and no other attempt there got an answer while it
--              waited
local reports = {}

local function report_of(destination)
  local report = reports[destination]
  if not report then
    local pace = read_pace(destination)
    report = { pace = pace, ended = 0, good = 0, bad = 0, bad_route = 0, newest = 0 }
    if pace.breaker and pace.breaker[1] == 'half_open' then report.probe = pace.breaker[2] end
    reports[destination] = report
  end
  return report
end

-- Reports that attempts ended with the same result. `mark` is '+' good, '-' bad, '~' bad_route, or
-- '' if the result means nothing for the destination. `in_flight` is how many of them still counted
-- as under way: an attempt whose address was retired meanwhile does not.
local function end_attempts(destination, token, mark, number, in_flight)
  local report = report_of(destination)
  report.ended = report.ended + in_flight
  local is_probe = report.probe == token
  if mark == '+' then
    report.good = report.good + number
    if is_probe and report.result ~= 'bad' then report.result = 'good' end
  elseif mark == '' then
    if is_probe then report.result = report.result or 'none' end
  else
    if mark == '-' then
      report.bad = report.bad + number
    else
      report.bad_route = report.bad_route + number
    end
    if is_probe then report.result = 'bad' end
    report.newest = math.max(report.newest, serial_of(token))
  end
end

-- Reports an attempt that was given up after it had waited this long for an answer. If other
-- attempts there got an answer meanwhile, there are too many attempts at once. Otherwise the host
-- does not answer.
local function give_up_attempt(destination, token, waited_ms, in_flight)
  local report = report_of(destination)
  local is_mute = is_mute_for(report.pace, waited_ms)
  report.is_mute = report.is_mute or is_mute
  end_attempts(destination, token, is_mute and '-' or '~', 1, in_flight)
end

local function end_attempt(destination, token, mark, in_flight)
  end_attempts(destination, token, mark, 1, in_flight or 1)
end

-- Reports that an attempt which had ended well has failed after all: because of the host ('-') or
-- of our route to it ('~'). If the attempt was claimed before the window was last narrowed, the
-- window stays as it is, because that narrowing counts for this failure too. A probe that is under
-- way is not affected.
local function note_late_failure(destination, mark, serial)
  if mark ~= '-' and mark ~= '~' then return end
  local report = report_of(destination)
  if mark == '-' then report.bad = 1 else report.bad_route = 1 end
  report.newest, report.late = tonumber(serial), true
end

-- Returns the token of the probe that a destination waits for, if the probe is the attempt of this
-- job; else ''.
local function probe_of(destination, id)
  local token = report_of(destination).probe
  if not token then return '' end
  for _, held in ipairs(held_jobs(token)) do
    if held == id then return token end
  end
  return ''
end

-- Returns the window after `good` attempts went well. Until the first failure, each of them adds
-- one, up to WINDOW. After that, one is added for as many good attempts as the window is wide.
local function wider_window(window, window_max, good, narrowed)
  if not narrowed and window < WINDOW then return math.min(window_max, WINDOW, window + good) end
  return math.min(window_max, window + good / window)
end

-- Settles the breaker. If it waits for a probe, the probe's result decides. If it is open, nothing
-- changes: the attempts that end now were claimed before it opened.
local function settle_breaker(destination, report, changes)
  local state, _, times = unpack(report.pace.breaker)
  local result = state == 'half_open' and report.result
  if result == 'bad' then
    open_breaker(destination, changes, times)
  elseif result == 'none' then
    -- The probe had no result. It is tried again after a while.
    set(changes, 'breaker', 'open ' .. text(NOW + OPEN_MS) .. ' ' .. text(times))
    wake(destination, NOW + OPEN_MS)
  elseif result == 'good' then
    -- A slow start: what has become due meanwhile goes out one by one at first.
    set(changes, 'breaker', '')
    set(changes, 'results', '')
    set(changes, 'window', text(WINDOW_MIN))
    if not is_held(report.pace) then redis.call('ZREM', TROUBLE, destination) end
    event_of_destination('BreakerClosed', destination, '')
    note_change('closed', destination, '')
    wake(destination, NOW)
  end
end

local function settle_pace(destination, report)
  local pace = report.pace
  local in_flight, window = pace.in_flight or 0, pace.window or WINDOW_NEW
  local changes = { 'in_flight', text(math.max(0, in_flight - report.ended)) }
  if report.delivered then set(changes, 'delivered', NOW_TEXT) end
  if report.answered then
    set(changes, 'answered', NOW_TEXT)
    if pace.silent then set(changes, 'silent', '') end
  end
  local failed = report.bad + report.bad_route
  if pace.breaker then
    settle_breaker(destination, report, changes)
  elseif failed > 0 then
    -- Failures of attempts that were under way together narrow the window once.
    if report.newest > (pace.narrowed or 0) then
      local used = report.late and window or math.min(window, in_flight)
      set(changes, 'window', string.format('%.3f', math.max(WINDOW_MIN, used * NARROWED_TO)))
      set(changes, 'narrowed', redis.call('GET', SERIAL) or '0')
    end
  elseif report.good > 0 and in_flight * 2 >= window then
    -- A window is widened only if at least half of it was in use. Otherwise it was not tested.
    local _, _, window_max = limits_of(pace)
    local wider = wider_window(window, window_max, report.good, pace.narrowed)
    if wider ~= window then set(changes, 'window', string.format('%.3f', wider)) end
  end
  if not pace.breaker and report.good + report.bad > 0 then
    local kept, open = count_results(pace.results, report.good, report.bad)
    if open or report.is_mute then
      open_breaker(destination, changes, 0)
    else
      set(changes, 'results', kept)
    end
  end
  if pace.parked then
    set(changes, 'parked', '0')
    wake(destination, NOW)
  end
  redis.call('HSET', pace_key(destination), unpack(changes))
end

local function write_pace()
  for destination, report in pairs(reports) do settle_pace(destination, report) end
  reports = {}
end
