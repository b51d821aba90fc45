//! Sends the inputs, each at its time and in its way. An input is sent again until it is answered.
//! The answer is recorded.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::plan::{Bounce, Input, What};
use crate::record::{Bounced, Held, ReportedFact, Way, now_ms};
use crate::world::World;

mod bounces;
mod lmtp;
mod relay;

pub(crate) use relay::report_all;

/// How many inputs may be in progress at once.
const AT_ONCE: usize = 64;

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// The pause between two tries of one input.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends all inputs, and waits until all of them are answered or the run is closing.
pub(crate) async fn send_all(world: &Arc<World>, inputs: Vec<Input>) {
    let started = Instant::now();
    let (permits, mut sending) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for input in inputs {
        sleep_until(started + input.at).await;
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let world = world.clone();
        sending.spawn(async move {
            let _permit = permit;
            let closing = world.closing.clone();
            closing.run_until_cancelled(send_one(&world, input)).await;
        });
        while sending.try_join_next().is_some() {}
    }
    while sending.join_next().await.is_some() {}
}

async fn send_one(world: &World, input: Input) {
    match input.what {
        What::Bounces(way, bounces) => bounces::send(world, input.scheduler, way, &bounces).await,
        What::Fact(fact, recipient, message) => {
            report_fact(world, input.scheduler, fact, &recipient, message).await;
        }
        What::Hold(destination, span) => hold(world, input.scheduler, destination, span).await,
    }
}

/// The tries of one input. Each try uses another scheduler.
struct Tries {
    scheduler: usize,
    made: u32,
}

impl Tries {
    /// The first try uses this scheduler.
    fn from(scheduler: usize) -> Self {
        Self { scheduler, made: 0 }
    }

    /// The scheduler of the next try. Pauses first, except before the first try.
    async fn next(&mut self) -> usize {
        if self.made > 0 {
            sleep(PAUSE).await;
        }
        self.made += 1;
        self.scheduler + self.made as usize - 1
    }
}

/// Sends a request. Returns the answer if its status is in `answers`, or `None` if the request must
/// be sent again. An answer with any other status is recorded as wrong, unless it asks for a retry.
async fn request(
    world: &World,
    scheduler: usize,
    method: Method,
    path: &str,
    build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    answers: &[u16],
) -> Option<(u16, String)> {
    let http = world.schedulers[scheduler % world.schedulers.len()].http;
    let request = world
        .http
        .request(method, format!("http://{http}{path}"))
        .timeout(REQUEST_MAX);
    let response = build(request).send().await.ok()?;
    let status = response.status().as_u16();
    // An incomplete answer counts as no answer.
    let text = response.text().await.ok()?;
    match status {
        status if answers.contains(&status) => Some((status, text)),
        // These ask for a retry. 507 means that a disk is full.
        429 | 503 | 507 => None,
        _ => {
            let text: String = text.chars().take(200).collect();
            world
                .recorder
                .wrong
                .push(format!("{path} was answered {status}: {text}"));
            None
        }
    }
}

async fn report_fact(
    world: &World,
    scheduler: usize,
    fact: &'static str,
    recipient: &str,
    message: Option<String>,
) {
    let first_at = now_ms();
    let at = domain::clock::Timestamp::from_ms(first_at).to_string();
    let mut body = json!({"type": fact, "recipient": recipient, "account": crate::plan::ACCOUNT,
        "occurred_at": at});
    if let Some(message) = &message {
        body["message_id"] = message.clone().into();
    }
    let mut tries = Tries::from(scheduler);
    let text = loop {
        let scheduler = tries.next().await;
        let build = |request: RequestBuilder| request.json(&body);
        if let Some((_, text)) =
            request(world, scheduler, Method::POST, "/v1/facts", build, &[202]).await
        {
            break text;
        }
    };
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    world.recorder.facts.push(ReportedFact {
        fact: fact.to_owned(),
        job: crate::plan::job_of(recipient),
        message,
        first_at,
        answered_at: now_ms(),
        answer: answer["answer"].as_str().unwrap_or("nothing").to_owned(),
    });
}

async fn hold(world: &World, scheduler: usize, destination: String, span: Duration) {
    let path = format!("/v1/destinations/{destination}/hold");
    let reason = json!({"reason": "chaos"});
    let put = |request: RequestBuilder| request.json(&reason);
    let mut tries = Tries::from(scheduler);
    while request(world, tries.next().await, Method::PUT, &path, put, &[200])
        .await
        .is_none()
    {}
    let from = now_ms();
    sleep(span).await;
    let until = now_ms();
    release(world, scheduler, &destination).await;
    world.recorder.held.push(Held {
        destination,
        from,
        until,
    });
}

async fn release(world: &World, scheduler: usize, destination: &str) {
    let path = format!("/v1/destinations/{destination}/hold");
    let mut tries = Tries::from(scheduler);
    // 404 means that an earlier try has released it, or that the servers have lost the hold.
    while request(
        world,
        tries.next().await,
        Method::DELETE,
        &path,
        |request| request,
        &[200, 404],
    )
    .await
    .is_none()
    {}
}

/// Releases all destinations that were held during the run.
pub(crate) async fn release_all(world: &World) {
    for held in world.recorder.held.all() {
        release(world, 0, &held.destination).await;
    }
}

/// Records the answers to bounces.
fn record_answers(
    world: &World,
    way: Way,
    bounces: &[Bounce],
    answers: &[String],
    tries: u32,
    first_at: i64,
) -> anyhow::Result<()> {
    if answers.len() != bounces.len() {
        bail!(
            "{} bounces by {way:?} got {} answers",
            bounces.len(),
            answers.len()
        );
    }
    for (bounce, answer) in bounces.iter().zip(answers) {
        world.recorder.bounced.push(Bounced {
            message: bounce.message.clone(),
            job: bounce.job(),
            way,
            permanent: bounce.is_permanent(),
            answer: answer.clone(),
            tries,
            first_at,
            answered_at: now_ms(),
        });
    }
    Ok(())
}
