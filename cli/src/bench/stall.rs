//! Measures how late healthy mail gets when many destinations hang. A worker with the default
//! settings delivers over SMTP to a thousand mail systems. Three in ten of them accept connections
//! but never a message. The journal records how late each job was claimed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use clap::Args;
use config::model::Config;
use domain::address::Address;
use domain::clock::{Clock, Timestamp};
use domain::event::EventKind;
use domain::job::ContentRef;
use domain::outcome::Outcome;
use domain::pace::Pace;
use domain::transcript::Transcript;
use senders::attempt::Attempt;
use senders::mx::MxSender;
use senders::sender::Sender;
use senders::settings::mx::MxSettings;
use store::entry_id::EntryId;
use system::clock::SystemClock;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::servers::Servers;
use super::rig::{Random, Rig, arrival};
use super::{Figures, figures};
use crate::progress::Progress;

mod servers;

/// How often jobs are scheduled and the journal is read, and how many entries of a shard are read
/// at a time.
const TICK: Duration = Duration::from_millis(100);
const ENTRIES: usize = 1_000;

/// How long a run waits for deliveries after the last job's due time. A job that is not claimed by
/// then counts with its lateness at that moment.
const FINAL_WAIT: Duration = Duration::from_secs(15);

/// The size of a run of `stall`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StallArguments {
    /// stall: how many destinations there are
    #[arg(long, default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    destinations: u32,

    /// stall: how many of the destinations hang
    #[arg(long, default_value_t = 300)]
    hanging: u32,

    /// stall: how many jobs fall due each second, at all destinations together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,

    /// stall: how many seconds the cold start lasts, the first part of each run
    #[arg(long, default_value_t = 180)]
    warm_up: u64,

    /// stall: how many seconds the run continues after the warm-up
    #[arg(long, default_value_t = 120)]
    measured: u64,

    /// stall: how many attempts the worker may have under way; one run for each number
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    permits: Vec<usize>,
}

/// Makes one run for each number of permits.
pub(crate) async fn stall(arguments: &StallArguments) -> Result<Figures> {
    let mut all = Figures::new();
    for permits in &arguments.permits {
        let Late {
            mut cold,
            mut warm,
            missing,
        } = run(arguments, *permits).await?;
        cold.sort_unstable();
        warm.sort_unstable();
        let name = |what: &str| format!("{permits} permits: {what}");
        all.extend(figures([
            (&name("cold start, ms late, p50"), at(&cold, 0.5)),
            (&name("cold start, ms late, p99"), at(&cold, 0.99)),
            (&name("warm, ms late, p50"), at(&warm, 0.5)),
            (&name("warm, ms late, p99"), at(&warm, 0.99)),
            (&name("never claimed"), missing as f64),
        ]));
    }
    Ok(all)
}

/// How late healthy mail was, in ms.
#[derive(Default)]
struct Late {
    /// The jobs that fell due during the warm-up.
    cold: Vec<i64>,
    /// The jobs that fell due after the warm-up.
    warm: Vec<i64>,
    /// How many of all these jobs were never claimed.
    missing: usize,
}

impl Late {
    fn add(&mut self, is_cold: bool, ms: i64) {
        if is_cold {
            self.cold.push(ms);
        } else {
            self.warm.push(ms);
        }
    }
}

/// Returns the value that this share of the sorted values does not exceed.
fn at(sorted: &[i64], share: f64) -> f64 {
    let position = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(position).copied().unwrap_or_default() as f64
}

async fn run(arguments: &StallArguments, permits: usize) -> Result<Late> {
    let rig = Rig::with_pace(Pace::default()).await?;
    let servers = Servers::start()
        .await
        .context("cannot start mail servers on loopback")?;
    let stop = CancellationToken::new();
    let settings = config::model::Worker {
        concurrency: permits,
        ..Config::embedded().worker
    };
    let sender = SenderToServers::new(&servers, arguments.hanging, permits)?;
    let worker = rig.start_worker_with(Arc::new(sender), settings, &stop);
    let late = measure(arguments, permits, &rig).await?;
    stop.cancel();
    worker.await?;
    rig.end().await;
    Ok(late)
}

/// Lets jobs fall due at an even rate. Returns how late the jobs of healthy destinations were
/// claimed.
async fn measure(arguments: &StallArguments, permits: usize, rig: &Rig) -> Result<Late> {
    let StallArguments {
        destinations,
        hanging,
        rate,
        warm_up,
        measured,
        ..
    } = *arguments;
    let (warm_up, length) = (
        Duration::from_secs(warm_up),
        Duration::from_secs(warm_up + measured),
    );
    let jobs = (length.as_secs_f64() * f64::from(rate)) as usize;
    let (mut late, mut waiting) = (Late::default(), HashMap::<String, (Timestamp, bool)>::new());
    let mut cursor = vec![EntryId::default(); usize::from(rig.store.shards())];
    let mut random = Random::new(300);
    let mut progress = Progress::new(format!("{permits} permits"), jobs);
    let (mut scheduled, started) = (0, Instant::now());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while started.elapsed() < length + FINAL_WAIT && (scheduled < jobs || !waiting.is_empty()) {
        ticks.tick().await;
        let elapsed = started.elapsed();
        let due = ((elapsed.as_secs_f64() * f64::from(rate)) as usize).min(jobs);
        let batch: Vec<_> = (scheduled..due)
            .map(|n| {
                let destination = (random.next() * f64::from(destinations)) as usize;
                let mut arrival = arrival(n, destination, Duration::ZERO);
                arrival.message.content =
                    Some(ContentRef::Inline("Subject: hello\n\nhello\n".to_owned()));
                if destination >= hanging as usize {
                    waiting.insert(arrival.job.key(), (SystemClock.now(), elapsed < warm_up));
                }
                arrival
            })
            .collect();
        rig.store.schedule(&batch).await?;
        scheduled = due;
        for (job, ms) in delivered(rig, &mut cursor).await? {
            if let Some((_, is_cold)) = waiting.remove(&job) {
                late.add(is_cold, ms);
            }
        }
        progress.show(
            scheduled as u64,
            &format!("{} jobs of healthy destinations wait", waiting.len()),
        );
    }
    late.missing = waiting.len();
    let now = SystemClock.now();
    for (due, is_cold) in waiting.into_values() {
        late.add(is_cold, now.ms() - due.ms());
    }
    Ok(late)
}

/// Reads the journal from the cursor to its end. Returns the jobs that were delivered, and how late
/// each was claimed, in ms.
async fn delivered(rig: &Rig, cursor: &mut [EntryId]) -> Result<Vec<(String, i64)>> {
    let mut delivered = Vec::new();
    loop {
        let journals = rig.store.read_journal(cursor, ENTRIES).await?;
        if journals.iter().all(Vec::is_empty) {
            return Ok(delivered);
        }
        for (position, journal) in cursor.iter_mut().zip(&journals) {
            *position = journal.last().map_or(*position, |entry| entry.id);
        }
        let events = journals
            .into_iter()
            .flatten()
            .flat_map(|entry| entry.events);
        let events = events.filter(|event| event.kind == EventKind::MessageDelivered);
        delivered.extend(events.filter_map(|event| Some((event.job.to_string(), event.late_ms?))));
    }
}

/// Sends over SMTP. One healthy server and two that hang represent the mail systems of all domains.
struct SenderToServers {
    sender: MxSender,
    hanging: usize,
    /// A recipient at the healthy server.
    healthy_recipient: Address,
    /// A recipient at each server that hangs.
    hanging_recipients: Vec<Address>,
}

impl SenderToServers {
    /// Returns a sender to these servers. DNS is not used: the recipients' domains are IP
    /// addresses. Each server represents many mail systems, so it may get as many connections as
    /// the worker makes.
    fn new(servers: &Servers, hanging: u32, permits: usize) -> Result<Self> {
        let mut settings = MxSettings {
            port: servers.port,
            private_hosts: true,
            nameservers: vec![([127, 0, 0, 1], servers.port).into()],
            ..MxSettings::default()
        };
        settings.session.helo = "bench.example".to_owned();
        settings.session.connections = permits;
        let recipient =
            |address| Address::parse(&format!("jo@[{address}]")).map_err(anyhow::Error::from);
        Ok(Self {
            sender: MxSender::new(settings),
            hanging: hanging as usize,
            healthy_recipient: recipient(servers.healthy)?,
            hanging_recipients: servers
                .hanging
                .into_iter()
                .map(recipient)
                .collect::<Result<_>>()?,
        })
    }

    /// Returns the recipient to use instead of this one. It is an address at the server that
    /// represents this recipient's mail system, which the number in `…@d12.example` identifies.
    fn recipient_at_server(&self, recipient: &Address) -> &Address {
        let number = recipient
            .domain()
            .strip_prefix('d')
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        match number {
            Some(number) if number < self.hanging => {
                &self.hanging_recipients[number % self.hanging_recipients.len()]
            }
            _ => &self.healthy_recipient,
        }
    }
}

#[async_trait]
impl Sender for SenderToServers {
    async fn send(&self, attempt: &Attempt) -> Outcome {
        self.send_traced(attempt).await.0
    }

    async fn send_traced(&self, attempt: &Attempt) -> (Outcome, Option<Transcript>) {
        let attempt = Attempt {
            recipient: self.recipient_at_server(&attempt.recipient).clone(),
            ..attempt.clone()
        };
        self.sender.send_traced(&attempt).await
    }
}
