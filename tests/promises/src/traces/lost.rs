//! Whatever a collector does with spans and logs, the memory of a worker stays the same, and its
//! end takes two seconds at most.

use std::time::{Duration, Instant};

use harness::bounce::{FULL, bounce};
use harness::http::{NDJSON, client};
use harness::otlp::{Answer, Collector};
use harness::port::free_port;
use harness::process::Redeliver;
use harness::redis;
use harness::wait::eventually;
use serde_json::json;

use super::SAMPLED;

/// How many spans, and how many log records, may wait.
const QUEUE_MAX: usize = 512;

/// How many jobs fill the queues and warm the worker up. Each has two spans and a log record.
const FIRST: usize = 3_000;

/// How many jobs follow. If all of their spans and log records were kept, they would take 40 MiB.
const MORE: usize = 24_000;

/// The beginning of all message ids. They often contain addresses, so no log may have one.
const MESSAGE_ID: &str = "to.somebody.";

/// How much the memory of a worker may grow by these jobs, which is what the allocator needs.
const GROWTH_MAX: u64 = 8 << 20;

/// How long the end of a worker may take: two seconds for telemetry, and one for all else on a busy
/// machine.
const END_MAX: Duration = Duration::from_secs(3);

/// A scheduler and a worker that only logs what it would send, with `endpoint` for its telemetry.
struct Fleet {
    name: &'static str,
    api: String,
    metrics: String,
    worker: Redeliver,
    _scheduler: Redeliver,
}

impl Fleet {
    fn start(name: &'static str, endpoint: &str) -> Self {
        let [api, metrics] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let config = format!(
            "[redis]\nurl = \"{}\"\nprefix = \"{}\"\nshards = 4\n\
             [scheduler]\nlisten = \"{api}\"\n[worker]\nlisten = \"{metrics}\"\n\
             [telemetry]\nendpoint = \"{endpoint}\"\nqueue_max = {QUEUE_MAX}\n",
            redis::url(),
            redis::unique_prefix()
        );
        Self {
            name,
            api: format!("http://{api}/v1/bounces"),
            metrics: format!("http://{metrics}/metrics"),
            worker: Redeliver::start_with(&["worker", "--allow-log"], &config),
            _scheduler: Redeliver::start("scheduler", &config),
        }
    }

    /// Posts jobs that are due, and waits until `all` jobs have been tried.
    async fn work(&self, jobs: std::ops::Range<usize>) {
        let all = jobs.end;
        let lines = jobs.map(|n| {
            let recipient = format!("user{n}@d{}.example", n % 100);
            let mut mail = bounce(&recipient, &format!("{MESSAGE_ID}{n}@example.org"), FULL);
            mail["occurred_at"] = json!("2020-01-01T00:00:00Z");
            mail["traceparent"] = json!(SAMPLED);
            format!("{mail}\n")
        });
        let lines: String = lines.collect();
        eventually("the scheduler", async || {
            let request = client().post(&self.api).header("content-type", NDJSON);
            let answer = request.body(lines.clone()).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        eventually("all attempts", async || {
            let metrics = client().get(&self.metrics).send().await.ok()?;
            let metrics = metrics.text().await.ok()?;
            (sum(&metrics, "redeliver_verdicts_total{") >= all as f64).then_some(())
        })
        .await;
    }

    /// Works, and then ends the worker.
    async fn check(self) {
        self.work(0..FIRST).await;
        let before = self.worker.memory().await;
        self.work(FIRST..FIRST + MORE).await;
        let after = self.worker.memory().await;
        let metrics = client().get(&self.metrics).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let lost = sum(&metrics, "redeliver_telemetry_lost_total{");
        println!(
            "{}: {} MiB, then {} MiB",
            self.name,
            before >> 20,
            after >> 20
        );
        assert!(
            after < before + GROWTH_MAX,
            "{}: from {before} bytes to {after}",
            self.name
        );
        // Two spans and a log record for each job, of which the queues may still hold some.
        let made = 3 * (FIRST + MORE);
        assert!(
            lost >= (made - 3 * QUEUE_MAX) as f64,
            "{}: {lost} of {made} were lost",
            self.name
        );
        let log = self.worker.log();
        let line = log.lines().find(|line| line.contains("would send"));
        assert!(
            line.is_some_and(|line| !line.contains(MESSAGE_ID)),
            "{line:?}"
        );
        let began = Instant::now();
        assert!(self.worker.terminate().await.success());
        let took = began.elapsed();
        assert!(took < END_MAX, "{}: {took:?}", self.name);
    }
}

/// Returns the sum of all series whose lines start like this.
fn sum(metrics: &str, start: &str) -> f64 {
    let series = metrics.lines().filter(|line| line.starts_with(start));
    let values = series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

#[tokio::test]
async fn with_a_collector_that_takes_nothing_memory_stays_flat_and_a_worker_ends_in_two_seconds() {
    let (hanging, refusing) = (Collector::grpc().await, Collector::grpc().await);
    hanging.answer_with(Answer::Hang);
    refusing.answer_with(Answer::Refuse);
    let missing = format!("http://127.0.0.1:{}", free_port());
    let fleets = [
        ("a collector that hangs", hanging.url()),
        ("a collector that refuses", refusing.url()),
        ("no collector", missing),
    ];
    for (name, endpoint) in fleets {
        Fleet::start(name, &endpoint).check().await;
    }
}
