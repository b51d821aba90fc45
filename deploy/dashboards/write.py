"""Writes the dashboards fleet.json, destinations.json and retries.json beside this file.

    pip install -r deploy/dashboards/requirements.txt
    python3 deploy/dashboards/write.py

Every scheduler reports the same figures of the fleet, so these are combined with max(). What a
process reports of itself is combined with sum(). docs/reference/metrics.md has all metrics.
"""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from panels import RED, YELLOW, choice, lines, new, number, row, rows_of

DESTINATION = 'destination=~"$destination"'
SUCCEEDED = 'outcome=~"delivered|accepted"'


def total(function, metric, by=None, labels="", window="$__rate_interval"):
    """Returns the query for the sum of a function over a counter, by some of its labels."""
    group = f" by ({by}) " if by else ""
    chosen = f"{{{labels}}}" if labels else ""
    return f"sum{group}({function}({metric}{chosen}[{window}]))"


def rate(metric, by=None, labels=""):
    """Returns the query for how often a counter counts in a second."""
    return total("rate", metric, by, labels)


def count(metric, by=None, labels="", window="$__range"):
    """Returns the query for how much a counter has counted in a time."""
    return total("increase", metric, by, labels, window)


def quantile(share, histogram, by=None):
    """Returns the query for the value that this share of a histogram's values is below."""
    buckets = total("rate", f"{histogram}_bucket", f"le, {by}" if by else "le")
    return f"histogram_quantile({share}, {buckets})"


def success(by=None, window="$__range"):
    """Returns the query for the share of attempts that succeed at the chosen destinations. It is 0,
    not absent, if none does."""
    attempts = "redeliver_attempts_total"
    everything = total("rate", attempts, by, DESTINATION, window)
    succeeded = total("rate", attempts, by, f"{DESTINATION}, {SUCCEEDED}", window)
    return f"({succeeded} or 0 * {everything}) / ({everything} > 0)"


def fleet():
    """Is the fleet well?"""
    return (
        new("fleet", "the fleet", "Is mail tried when it is due, and are all parts well?", "now-6h")
        .with_row(row("Now"))
        .with_panel(
            number(
                "Alerts", "How many alerts of Redeliver fire?",
                'count(ALERTS{alertname=~"Redeliver.*", alertstate="firing"}) or vector(0)',
                limits=[(1, RED)],
            )
        )
        .with_panel(
            number(
                "Workers", "How many workers had a heartbeat in the last seconds?",
                "max(redeliver_workers)", runbook="nothing-is-tried",
            )
        )
        .with_panel(
            number(
                "Due jobs", "How many jobs are due and not claimed yet?",
                "max(redeliver_due_jobs)", runbook="the-backlog-grows",
            )
        )
        .with_panel(
            number(
                "Oldest due job", "How long has the first of them been due? Jobs at destinations "
                "that are down or held wait on purpose.",
                "max(redeliver_oldest_due_age_seconds)", "s",
                [(360, YELLOW), (4500, RED)], "nothing-is-tried",
            )
        )
        .with_panel(
            number(
                "In quarantine", "How many jobs are not tried, because their leases ran out too "
                "often in a row?",
                "max(redeliver_quarantined_jobs)",
                limits=[(1, RED)], runbook="jobs-in-quarantine",
            )
        )
        .with_panel(
            number(
                "Memory of Redis", "How much of its maxmemory does Redis use? Without maxmemory "
                "there is no value.",
                "max(redeliver_redis_memory_used_bytes) / max(redeliver_redis_memory_max_bytes)",
                "percentunit", [(0.8, YELLOW), (0.95, RED)], "redis-is-full",
            )
        )
        .with_row(row("Is mail tried in time?"))
        .with_panel(
            lines(
                "Attempts", "How many attempts end per second, and how?",
                [(rate("redeliver_attempts_total", "outcome"), "{{outcome}}")],
                "ops", stacked=True, runbook="nothing-is-tried",
            )
        )
        .with_panel(
            lines(
                "Lateness", "How late do attempts begin? Up to 6 minutes are within the jitter of "
                "the shortest delay.",
                [
                    (quantile(0.5, "redeliver_claim_lateness_seconds"), "half"),
                    (quantile(0.99, "redeliver_claim_lateness_seconds"), "99 %"),
                ],
                "s", [(360, YELLOW)], "attempts-are-late",
            )
        )
        .with_panel(
            lines(
                "Pending jobs", "When are the waiting jobs due? What is due within an hour soon "
                "becomes load.",
                [("max by (horizon) (redeliver_pending_jobs)", "{{horizon}}")],
                stacked=True, runbook="the-backlog-grows",
            )
        )
        .with_panel(
            lines(
                "Room", "What limits the attempts at once: the permits of the workers, or the "
                "windows of the destinations?",
                [
                    ("max(redeliver_in_flight_attempts)", "under way"),
                    ("max(redeliver_window_attempts)", "windows"),
                    ("sum(redeliver_worker_permits)", "permits"),
                ],
                runbook="attempts-are-late",
            )
        )
        .with_row(row("What comes in"))
        .with_panel(
            lines(
                "Bounces by answer", "What do the bounces lead to?",
                [(rate("redeliver_bounces_total", "answer"), "{{answer}}")], "ops", stacked=True,
            )
        )
        .with_panel(
            lines(
                "Bounces by source", "Which way do they come in? A source that ends is usually a "
                "fault of the platform.",
                [(rate("redeliver_bounces_total", "source"), "{{source}}")], "ops", stacked=True,
            )
        )
        .with_panel(
            lines(
                "Readers and strangers", "Do clients read the events, and does anyone ask without "
                "a valid token?",
                [
                    (rate("redeliver_events_read_total"), "events read"),
                    (rate("redeliver_failed_sign_ins_total"), "failed sign-ins"),
                ],
                "ops", width=8,
            )
        )
        .with_panel(
            lines(
                "Lag of the readers", "How old is the first event that each reader has not got "
                "yet? A reader that is not connected is absent.",
                [("max by (reader) (redeliver_journal_lag_seconds)", "{{reader}}")],
                "s", width=8,
            )
        )
        .with_panel(
            lines(
                "Attempts that did not end well", "Do workers crash, hang, or lose their leases?",
                [
                    (rate("redeliver_lapses_total"), "lapses"),
                    (rate("redeliver_stale_settlements_total"), "settled too late"),
                    (rate("redeliver_content_reads_total", labels='result="failed"'),
                     "content not read"),
                ],
                "ops", runbook="jobs-in-quarantine", width=8,
            )
        )
        .with_row(row("Redis, upkeep and telemetry"))
        .with_panel(
            lines(
                "Calls to Redis", "How long do 99 % of the calls of each script take?",
                [(quantile(0.99, "redeliver_redis_call_duration_seconds", "script"), "{{script}}")],
                "s", runbook="redis-does-not-answer", width=8,
            )
        )
        .with_panel(
            lines(
                "Traffic to Redis", "How many round trips are there, and do writes reach the "
                "configured durability?",
                [
                    (rate("redeliver_redis_round_trips_total"), "round trips"),
                    (rate("redeliver_durable_writes_total", "durability, result"),
                     "{{durability}} {{result}}"),
                ],
                "ops", runbook="redis-does-not-answer", width=8,
            )
        )
        .with_panel(
            lines(
                "Failed calls to Redis", "Why do calls fail, and has Redis lost data?",
                [
                    (rate("redeliver_redis_failures_total", "kind"), "{{kind}}"),
                    (rate("redeliver_lost_writes_total"), "lost writes"),
                    (rate("redeliver_recovered_jobs_total"), "jobs put back"),
                    (rate("redeliver_repairs_total", "kind"), "repaired: {{kind}}"),
                    (rate("redeliver_redis_server_changes_total"), "shards with a new server"),
                    ("max(rate(redeliver_redis_evicted_keys_total[$__rate_interval]))",
                     "evicted keys"),
                ],
                "ops", runbook="redis-loses-data", width=8,
            )
        )
        .with_panel(
            lines(
                "Memory of Redis", "How fast does the memory grow, and how far is the limit?",
                [
                    ("max(redeliver_redis_memory_used_bytes)", "used"),
                    ("max(redeliver_redis_memory_max_bytes)", "maxmemory"),
                ],
                "bytes", runbook="redis-is-full", width=8,
            )
        )
        .with_panel(
            lines(
                "Memory per job", "How much memory does a job take, all told? About 600 bytes "
                "without inline content and journal.",
                [("max(redeliver_redis_memory_per_job_bytes)", "bytes per job")],
                "bytes", width=8,
            )
        )
        .with_panel(
            lines(
                "Upkeep", "How long ago has each task succeeded?",
                [
                    ("time() - max by (task) (redeliver_upkeep_last_success_timestamp_seconds)",
                     "{{task}}")
                ],
                "s", [(1800, RED)], "upkeep-is-silent", width=8,
            )
        )
        .with_panel(
            lines(
                "Lost telemetry", "Do traces and logs reach the collector?",
                [(rate("redeliver_telemetry_lost_total", "signal, reason"),
                  "{{signal}} {{reason}}")],
                "ops", runbook="telemetry-is-lost", width=8,
            )
        )
        .with_panel(
            lines(
                "Draining workers", "Which workers stop and claim nothing more?",
                [("sum(redeliver_worker_draining)", "draining")], width=8,
            )
        )
        .with_panel(
            lines(
                "Versions", "Which versions are running, and on how many processes?",
                [("sum by (version) (redeliver_build_info)", "{{version}}")], stacked=True, width=8,
            )
        )
    )


def destinations():
    """Which mail systems are in trouble?"""
    attempts = "redeliver_attempts_total"
    return (
        new(
            "destinations", "destinations",
            "Which mail systems are in trouble, and is it theirs or ours?", "now-6h",
        )
        .with_variable(
            choice("destination", "Destination", f"label_values({attempts}, destination)")
        )
        .with_row(row("Whose trouble is it?"))
        .with_panel(
            lines(
                "Breakers and holds", "How many mail systems are down or held? All at once have a "
                "common cause.",
                [
                    ("max by (state) (redeliver_breakers)", "{{state}}"),
                    ("max(redeliver_held_destinations)", "held"),
                ],
                runbook="many-breakers-are-open", width=8,
            )
        )
        .with_panel(
            lines(
                "Share of open breakers", "Which share of the mail systems with work is down?",
                [
                    ('max(redeliver_breakers{state="open"}) / (max(redeliver_destinations) > 0)',
                     "open")
                ],
                "percentunit", runbook="many-breakers-are-open", width=8,
            )
        )
        .with_panel(
            lines(
                "Trouble of our own", "Which routes cannot send? Their mail waits and spends no "
                "attempt.",
                [(rate("redeliver_own_trouble_total", "route, kind"), "{{route}}: {{kind}}")],
                "ops", runbook="trouble-of-our-own", width=8,
            )
        )
        .with_row(row("By destination"))
        .with_panel(
            rows_of(
                "Destinations", "How does each mail system treat our mail in the chosen time? "
                "Those that are not among the busiest count as other.",
                "destination",
                [
                    ("attempts", count(attempts, "destination", DESTINATION), "short"),
                    ("succeeded", success("destination"), "percentunit"),
                    ("replies 4xx",
                     count(attempts, "destination", f'{DESTINATION}, class="4"'), "short"),
                    ("replies 5xx",
                     count(attempts, "destination", f'{DESTINATION}, class="5"'), "short"),
                    ("no reply",
                     count(attempts, "destination", f'{DESTINATION}, class="none"'), "short"),
                ],
            )
        )
        .with_panel(
            lines(
                "Attempts", "Where do the attempts go?",
                [(rate(attempts, "destination", DESTINATION), "{{destination}}")],
                "ops", stacked=True,
            )
        )
        .with_panel(
            lines(
                "Success", "Which mail systems have stopped accepting our mail?",
                [(success("destination", "1h"), "{{destination}}")],
                "percentunit", runbook="retries-fail",
            )
        )
        .with_panel(
            lines(
                "Outcomes", "What do the chosen mail systems answer, and which errors prevent an "
                "answer?",
                [(rate(attempts, "outcome", DESTINATION), "{{outcome}}")], "ops", stacked=True,
            )
        )
        .with_panel(
            lines(
                "Status classes", "Are their replies temporary (4) or permanent (5)?",
                [(rate(attempts, "class", DESTINATION), "{{class}}")], "ops", stacked=True,
            )
        )
        .with_row(row("Conversations with all destinations"))
        .with_panel(
            lines(
                "Phases", "In which phase do conversations spend their time? (95 %)",
                [(quantile(0.95, "redeliver_phase_duration_seconds", "phase"), "{{phase}}")], "s",
                width=8,
            )
        )
        .with_panel(
            lines(
                "Waiting for a connection", "Are there enough connections? (connections, "
                "worker.connections_max)",
                [
                    (quantile(0.5, "redeliver_connection_wait_seconds"), "half"),
                    (quantile(0.99, "redeliver_connection_wait_seconds"), "99 %"),
                ],
                "s", width=8,
            )
        )
        .with_panel(
            lines(
                "Duration of attempts", "How long do 95 % of the attempts take? The points are "
                "traces.",
                [(quantile(0.95, "redeliver_attempt_duration_seconds", "sender"), "{{sender}}")],
                "s", exemplars=True, width=8,
            )
        )
    )


def retries():
    """Do retries lead to anything?"""
    attempts = "redeliver_attempts_total"
    return (
        new(
            "retries", "retries",
            "Do retries lead to deliveries, at which attempt, and what is given up?", "now-7d",
        )
        .with_variable(
            choice("destination", "Destination", f"label_values({attempts}, destination)")
        )
        .with_row(row("In the chosen time"))
        .with_panel(
            number(
                "Attempts", "How many attempts were there?",
                count(attempts, labels=DESTINATION), width=6,
            )
        )
        .with_panel(
            number(
                "Successful", "Which share of them succeeded?",
                success(), "percentunit",
                runbook="retries-fail", width=6,
            )
        )
        .with_panel(
            number(
                "Retired", "How many addresses became inactive or unavailable, at all "
                "destinations?",
                count("redeliver_standing_changes_total",
                      labels='standing=~"inactive|unavailable"'),
                runbook="many-addresses-are-retired", width=6,
            )
        )
        .with_panel(
            number(
                "Reinstated", "How many addresses became active again, at all destinations?",
                count("redeliver_standing_changes_total", labels='standing="active"'), width=6,
            )
        )
        .with_row(row("Do retries succeed?"))
        .with_panel(
            lines(
                "Success", "Which share of the attempts of an hour succeeds?",
                [(success(window="1h"), "all attempts")],
                "percentunit", runbook="retries-fail",
            )
        )
        .with_panel(
            lines(
                "Success by attempt", "Is a later attempt still worth it? If the last ones never "
                "succeed, the schedule is too long.",
                [(success("attempt", "6h"), "attempt {{attempt}}")],
                "percentunit", runbook="retries-fail",
            )
        )
        .with_panel(
            lines(
                "Attempts by number", "How far along their schedules are the jobs?",
                [(rate(attempts, "attempt", DESTINATION), "attempt {{attempt}}")],
                "ops", stacked=True,
            )
        )
        .with_panel(
            lines(
                "Outcomes", "How do attempts end?",
                [(rate(attempts, "outcome", DESTINATION), "{{outcome}}")], "ops", stacked=True,
            )
        )
        .with_row(row("What becomes of them? (all destinations)"))
        .with_panel(
            lines(
                "Verdicts", "What does the policy decide about the outcomes?",
                [(rate("redeliver_verdicts_total", "verdict"), "{{verdict}}")],
                "ops", stacked=True, runbook="many-addresses-are-retired", width=8,
            )
        )
        .with_panel(
            lines(
                "Standings", "How many addresses an hour get another standing?",
                [
                    (count("redeliver_standing_changes_total", "standing", window="1h"),
                     "{{standing}}")
                ],
                runbook="many-addresses-are-retired", width=8,
            )
        )
        .with_panel(
            lines(
                "Bounces by class", "Which bounces start the retries: temporary (4) or permanent "
                "(5) ones?",
                [(rate("redeliver_bounces_total", "class"), "{{class}}")],
                "ops", stacked=True, width=8,
            )
        )
    )


def main():
    folder = Path(__file__).parent
    for make in (fleet, destinations, retries):
        board = make().build()
        for number_of_panel, panel in enumerate(board.panels, start=1):
            panel.id_val = number_of_panel
        text = JSONEncoder(sort_keys=True, indent=2).encode(board)
        (folder / f"{make.__name__}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
